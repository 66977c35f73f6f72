"""Starting from the weights of another training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from smalti.errors import SmaltiError
from smalti.tokenizers.checkpoints import load
from smalti.tokenizers.models.onevae.weight_transfer import summarize, transfer_weights
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.trainers.ema import TokenizerEMA
from smalti.trainers.module import TokenizerTraining

log = logging.getLogger(__name__)


class WarmStart(Callback):
    """Start from the weights of another training: an exported tokenizer or a checkpoint.

    Every weight is taken; the decoder may adapt them where the function stays the same (a generative decoder widens its
    first convolution with zeros for the noise, WeTok's second stage). Discriminator and optimizer start anew. A run that
    is resumed has its own weights and needs the source no more.

    Args:
        path: an exported folder or a `.ckpt` file; None: start from fresh weights.
        transfer: take what fits of another architecture of OneVAE's family instead (other strides, levels, latents or paths,
            such as a joint tokenizer from Wan2.1's continuous one), and log how much that was; see
            `smalti.tokenizers.models.onevae.weight_transfer`.
    """

    def __init__(self, path: Path | None = None, transfer: bool = False) -> None:
        self.path = path
        self.transfer = transfer

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Load the weights.

        Raises:
            SmaltiError: no tokenizer there, or one whose weights do not fit the recipe.
        """
        if stage != "fit" or self.path is None or trainer.ckpt_path is not None:
            return
        module = cast(TokenizerTraining, pl_module)
        source = load(self.path)
        if self.transfer:
            log.info("Starting from what fits of %s: %s.", self.path, summarize(transfer_weights(module.tokenizer, source)))
        else:
            self._take(module.tokenizer, source)
            log.info("Starting from the weights of %s.", self.path)
        for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(callback, TokenizerEMA):
                callback.restart(trainer, module)

    def _take(self, tokenizer: Tokenizer, source: Tokenizer) -> None:
        """Every weight, or none."""
        taken = tokenizer.decoder.adapt_weights(source.decoder.state_dict())
        weights = source.state_dict() | {f"decoder.{name}": weight for name, weight in taken.items()}
        expected = tokenizer.state_dict()
        for name in sorted(weights.keys() | expected.keys()):
            theirs, ours = weights.get(name), expected.get(name)
            if theirs is None or ours is None or theirs.shape != ours.shape:
                shapes = [None if t is None else tuple(t.shape) for t in (theirs, ours)]
                raise SmaltiError(
                    f"The recipe cannot start from {self.path}: the weight '{name}' is {shapes[0]} there and {shapes[1]} "
                    "in the recipe's tokenizer; give both the same architecture, or, in OneVAE's family, set transfer."
                )
        tokenizer.load_state_dict(weights)
