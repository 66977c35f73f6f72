"""Measuring the latent's statistics while a tokenizer is trained.

Shapes: B batch, N positions, C channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from smalti.distributed import mean_over_ranks
from smalti.errors import SmaltiError
from smalti.tokenizers.latent_statistics import LatentStatistics
from smalti.trainers.module import TokenizerTraining
from smalti.types import Code


class LatentStatisticsCallback(Callback):
    """Keeps `tokenizer.decoder.statistics`, the mean and standard deviation of each channel of z, true to the latents.

    Each training batch counts as it passes the bottleneck, on all ranks together: batch number n of the run with the
    weight max(1 / n, 1 - decay). So they are those of all batches so far at first, later of about the last
    1 / (1 - decay), and follow an encoder that still changes. z is what the decoder sees in training, a sample where the
    bottleneck draws one.

    A decoder that mixes noise into z by these statistics already has the first batch's in the first step, because z
    passes here before; nothing has to settle first. In the first steps they are as rough as few batches make them, and
    move as quickly as the encoder does.

    They are buffers of the tokenizer: checkpoints, exports, and the averaged weights (a copy of the live ones) hold them,
    and a run that is resumed goes on with them. A batch whose z is not finite does not count.

    Args:
        decay: in [0, 1), of batches' weights; None: they are not measured, and stay as they are.

    Raises:
        SmaltiError: a decay outside [0, 1).
    """

    def __init__(self, decay: float | None = None) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise SmaltiError(f"statistics.decay is {decay}: give it a number from 0 to below 1, such as 0.999.")
        self.decay = decay
        self.batches = 0
        self._handle: RemovableHandle | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Watch the bottleneck.

        Raises:
            SmaltiError: the tokenizer's decoder has no statistics, or is frozen.
        """
        if stage != "fit" or self.decay is None:
            return
        module = cast(TokenizerTraining, pl_module)
        statistics = getattr(module.tokenizer.decoder, "statistics", None)
        if not isinstance(statistics, LatentStatistics):
            raise SmaltiError(
                f"statistics.decay is given, but {type(module.tokenizer.decoder).__name__} keeps no statistics of the "
                "latent: take `statistics` out of the recipe."
            )
        if "decoder" in module.frozen:
            raise SmaltiError(
                "statistics.decay is given, but the decoder is frozen and its statistics with it: take one of the two out "
                "of the recipe."
            )
        self._handle = module.tokenizer.bottleneck.register_forward_hook(partial(self._seen, trainer, statistics))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the bottleneck alone."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def state_dict(self) -> dict[str, Any]:
        """How many batches have counted."""
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.batches = state_dict["batches"]

    def _seen(self, trainer: pl.Trainer, statistics: LatentStatistics, _: nn.Module, __: Any, code: Code) -> None:
        if trainer.training and self.decay is not None:  # not in validation, whatever mode a frozen bottleneck is in
            self.batches += 1
            update_statistics(statistics, code.z, max(1 / self.batches, 1 - self.decay))


@torch.no_grad()
def update_statistics(statistics: LatentStatistics, z: Tensor, weight: float) -> None:
    """Mix a batch's statistics into those so far, exactly: as if both batches' positions had been one set, so weighted.

        mean <- (1 - w) mean + w m,  variance <- (1 - w) variance + w v + w (1 - w) (m - mean)^2

    (West, "Updating mean and variance estimates", CACM 1979.) With w = 1 / n for the n-th of batches of one size, the
    result is the mean and the (biased) variance over all of them.

    Args:
        statistics: changed in place; not by a z that is not finite.
        z: (B, N, C), of this process; those of all processes count alike.
        weight: w, in [0, 1].
    """
    flat = z.detach().flatten(0, 1).float()
    (mean,) = mean_over_ranks(flat.mean(0))
    # About the mean of all processes, so that nothing is cancelled where a mean is large.
    (variance,) = mean_over_ranks((flat - mean).square().mean(0))
    apart = mean - statistics.mean
    mixed = torch.lerp(statistics.std.square(), variance, weight) + weight * (1 - weight) * apart.square()
    finite = (mean.isfinite() & variance.isfinite()).all()
    statistics.std.copy_(torch.where(finite, mixed.sqrt(), statistics.std))
    statistics.mean.copy_(torch.where(finite, statistics.mean + weight * apart, statistics.mean))
