"""Starting a training run from the weights of another one."""

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
    """Initializes the tokenizer with the weights of an exported tokenizer or a training checkpoint.

    All weights are loaded. The decoder may adapt them as long as it computes the same function: a generative decoder pads
    its first convolution with zeros for the noise channels (WeTok's second stage). The discriminator and the optimizer
    start from scratch. A resumed run uses the weights of its checkpoint and ignores this callback.

    Args:
        path: an exported folder or a `.ckpt` file; None: start with random weights.
        transfer: load the weights that fit from another architecture of the OneVAE family, with other strides, levels,
            latent channels or branches (for example, Wan2.1's continuous tokenizer into a joint one), and log a summary.
            See `smalti.tokenizers.models.onevae.weight_transfer`.
    """

    def __init__(self, path: Path | None = None, transfer: bool = False) -> None:
        self.path = path
        self.transfer = transfer

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Load the weights.

        Raises:
            SmaltiError: there is no tokenizer at `path`, or its weights do not fit the recipe.
        """
        if stage != "fit" or self.path is None or trainer.ckpt_path is not None:
            return
        module = cast(TokenizerTraining, pl_module)
        source = load(self.path)
        if self.transfer:
            report = transfer_weights(module.tokenizer, source)
            log.info("Starting from the weights of %s that fit: %s.", self.path, summarize(report))
        else:
            self._load_weights(module.tokenizer, source)
            log.info("Starting from the weights of %s.", self.path)
        for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(callback, TokenizerEMA):
                callback.restart(trainer, module)

    def _load_weights(self, tokenizer: Tokenizer, source: Tokenizer) -> None:
        """Load all weights.

        Raises:
            SmaltiError: a weight is missing or has another shape. No weight has been changed.
        """
        decoder_weights = tokenizer.decoder.adapt_weights(source.decoder.state_dict())
        weights = source.state_dict() | {f"decoder.{name}": weight for name, weight in decoder_weights.items()}
        expected = tokenizer.state_dict()
        for name in sorted(weights.keys() | expected.keys()):
            found, wanted = weights.get(name), expected.get(name)
            if found is None or wanted is None or found.shape != wanted.shape:
                shapes = ["missing" if t is None else f"of shape {tuple(t.shape)}" for t in (found, wanted)]
                raise SmaltiError(
                    f"The recipe cannot start from {self.path}: the weight '{name}' is {shapes[0]} there and {shapes[1]} "
                    "in the recipe; use the same architecture, or set transfer to true for tokenizers of the OneVAE family."
                )
        tokenizer.load_state_dict(weights)
