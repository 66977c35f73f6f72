"""Measuring the statistics of the latents while a tokenizer is trained.

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
    """Measures the mean and standard deviation of each channel of z, and stores them in the tokenizer.

    They are stored in the decoder, if it has statistics (LTX-Video), else in the continuous bottleneck or branch, which has
    them with `statistics: true`.

    The statistics are updated with each training batch, over all ranks. Batch n of the run has the weight
    max(1 / n, 1 - decay). At first, the statistics cover all batches. Later, they cover about the last 1 / (1 - decay)
    batches and follow an encoder that still changes. z is what the decoder receives in training: a random sample if the
    bottleneck draws one.

    The update happens when z leaves the bottleneck. No warm-up is needed: a decoder that mixes noise into z according to
    the statistics uses the statistics of the first batch in the first step. In the first steps, the statistics are noisy,
    because they are computed from few batches, and change as quickly as the encoder does.

    The statistics are buffers of the tokenizer: checkpoints and exports contain them, averaged weights contain a copy of
    the live ones, and a resumed run continues with them. A batch is skipped if its z contains NaN or infinite values.

    Args:
        decay: decay of the statistics per batch, in [0, 1). None: the statistics are not measured and keep their values.

    Raises:
        SmaltiError: `decay` is not in [0, 1).
    """

    def __init__(self, decay: float | None = None) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise SmaltiError(f"statistics.decay is {decay}: set a number in [0, 1), such as 0.999.")
        self.decay = decay
        self.batches = 0
        self._handle: RemovableHandle | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Register a hook on the bottleneck.

        Raises:
            SmaltiError: neither the decoder nor the bottleneck has statistics, or the one that has them is frozen.
        """
        if stage != "fit" or self.decay is None:
            return
        module = cast(TokenizerTraining, pl_module)
        tokenizer = module.tokenizer
        continuous = tokenizer.bottleneck.branches.get("continuous", tokenizer.bottleneck)
        owners = {"decoder": (tokenizer.decoder, tokenizer.bottleneck), "bottleneck": (continuous, continuous)}
        for part, (owner, measured) in owners.items():
            statistics = getattr(owner, "statistics", None)
            if not isinstance(statistics, LatentStatistics):
                continue
            if part in module.frozen:
                raise SmaltiError(
                    f"statistics.decay is set, but the {part} and its statistics are frozen: remove one of the two "
                    "settings from the recipe."
                )
            self._handle = measured.register_forward_hook(partial(self._update, trainer, statistics))
            return
        raise SmaltiError(
            f"statistics.decay is set, but {type(tokenizer.decoder).__name__} has no latent statistics: set "
            "`statistics: true` in its continuous bottleneck (KL, Identity or Unquantized), or remove `statistics` from "
            "the recipe."
        )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def state_dict(self) -> dict[str, Any]:
        """Return the number of batches so far."""
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of batches."""
        self.batches = state_dict["batches"]

    def _update(self, trainer: pl.Trainer, statistics: LatentStatistics, _: nn.Module, __: Any, code: Code) -> None:
        # Validation batches do not count. The trainer decides, because a frozen bottleneck is always in evaluation mode.
        if trainer.training and self.decay is not None:
            self.batches += 1
            update_statistics(statistics, code.z, max(1 / self.batches, 1 - self.decay))


@torch.no_grad()
def update_statistics(statistics: LatentStatistics, z: Tensor, weight: float) -> None:
    """Update statistics with a batch. The result is exact: the statistics of the weighted union of both.

        mean <- (1 - w) mean + w m,  variance <- (1 - w) variance + w v + w (1 - w) (m - mean)^2

    (West, "Updating mean and variance estimates", CACM 1979.) If all batches have the same size and the n-th batch has
    w = 1 / n, the result is the mean and the (biased) variance over all batches.

    Args:
        statistics: updated in place, unless z contains NaN or infinite values.
        z: (B, N, C), this process's part of the batch. All processes have equal weight.
        weight: weight w of the batch, in [0, 1].
    """
    flat = z.detach().flatten(0, 1).float()
    (mean,) = mean_over_ranks(flat.mean(0))
    # Around the global mean: with a large mean, the difference of two second moments would lose all precision.
    (variance,) = mean_over_ranks((flat - mean).square().mean(0))
    change = mean - statistics.mean
    mixed = torch.lerp(statistics.std.square(), variance, weight) + weight * (1 - weight) * change.square()
    finite = (mean.isfinite() & variance.isfinite()).all()
    statistics.std.copy_(torch.where(finite, mixed.sqrt(), statistics.std))
    statistics.mean.copy_(torch.where(finite, statistics.mean + weight * change, statistics.mean))
