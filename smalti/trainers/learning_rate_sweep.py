"""A short sweep over learning rates: which of them learns, from the same start and on the same batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from smalti.distributed import sum_over_ranks
from smalti.errors import DivergedError, SmaltiError
from smalti.trainers.module import TokenizerTraining
from smalti.trainers.sharding import is_sharded
from smalti.trainers.step_summary import StepResult, StepSummary
from smalti.types import Batch

WARMUP = 0.1
"""Fraction of the steps of each learning rate in which it rises linearly, as it does at the start of a run."""
MEASURED = 0.25
"""Fraction of the steps of each learning rate, at the end, over which the error is averaged."""
GRAY_MARGIN = 0.5
"""dB above the mean color below which a learning rate has learned nothing."""
SAFE_LOSS = 0.5
"""dB that are given up for a learning rate further away from one that learns nothing."""


@dataclass(frozen=True)
class SweepPoint:
    """The result of one learning rate.

    Attributes:
        rate: the learning rate of the tokenizer.
        psnr: PSNR in dB of the training batches in the last steps; None if a loss or a gradient was NaN or infinite.
        gray: whether it is no better than the mean color.
    """

    rate: float
    psnr: float | None
    gray: bool


class RepeatedBatches:
    """The first batches of a training loader, the same ones in every epoch.

    Args:
        loader: the training loader.
        count: number of batches per epoch; fewer if the loader has fewer.
    """

    def __init__(self, loader: Any, count: int) -> None:
        self._loader = loader
        self._count = min(count, len(loader))
        self._batches: list[Batch] = []

    @property
    def error(self) -> Exception | None:
        """Why no batch can be loaded anymore, see `Loader`."""
        return getattr(self._loader, "error", None)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        if self._batches:
            yield from self._batches
            return
        for batch in islice(self._loader, self._count):
            self._batches.append(batch)
            yield batch


class LearningRateSweep(Callback):
    """Trains a number of steps with each of several learning rates, each from the same weights and on the same batches.

    All other settings are those of the recipe, without its schedule: each learning rate rises in the first tenth of its
    steps and is constant then. Parameter groups with other learning rates keep their ratio to that of the tokenizer.

    Args:
        steps: optimizer steps of each learning rate.
        rates: the learning rates, ascending; None: `default_rates` of the recipe's.
        report: called on rank 0 after each learning rate with its result, the number of those that are left, and the
            seconds that they will take.

    Attributes:
        points: the results so far, in ascending order.
        base_rate: learning rate of the recipe.
        adam_factor: what `Muon` multiplies the learning rate with for Adam's parameters; None for other optimizers.

    Raises:
        SmaltiError: the weights are sharded.
    """

    def __init__(
        self, steps: int, rates: Sequence[float] | None, report: Callable[[SweepPoint, int, float], None]
    ) -> None:
        self.steps = steps
        self.rates = list(rates or [])
        self.points: list[SweepPoint] = []
        self.base_rate = 0.0
        self.adam_factor: float | None = None
        self._report = report
        self._weights: dict[str, Tensor] = {}
        self._ratios: list[float] = []
        self._index = -1
        self._errors: list[float] = []
        self._diverged = False
        self._color = _ColorSums()
        self._start = 0.0

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all learning rates; known when training starts."""
        return self.steps * len(self.rates)

    @property
    def mean_color_psnr(self) -> float:
        """PSNR in dB of the mean color of the batches of the last steps, in place of a reconstruction."""
        return decibels(self._color.variance())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the start."""
        module = cast(TokenizerTraining, pl_module)
        if is_sharded(module):
            raise SmaltiError("The sweep restores the weights, which are sharded: use --trainer.strategy ddp.")
        groups = trainer.optimizers[0].param_groups
        self.base_rate = float(groups[0]["lr"])
        self._ratios = [float(group["lr"]) / self.base_rate if self.base_rate else 1.0 for group in groups]
        self.adam_factor = groups[0].get("adam_factor")
        self.rates = self.rates or default_rates(self.base_rate)
        trainer.fit_loop.epoch_loop.max_steps = self.total_steps
        self._weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self._tolerate_divergence(module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Start the next learning rate from the same weights, and set the learning rate of the step."""
        index, step = divmod(trainer.global_step, self.steps)
        if index != self._index:
            self._index, self._errors, self._diverged, self._start = index, [], False, time.monotonic()
            pl_module.load_state_dict(self._weights)
            trainer.optimizers[0].state.clear()
        factor = min(1.0, (step + 1) / max(1, round(WARMUP * self.steps)))
        for group, ratio in zip(trainer.optimizers[0].param_groups, self._ratios, strict=True):
            group["lr"] = self.rates[index] * factor * ratio
        if index == 0 and step >= self.steps - self._measured_steps():
            self._color.add(batch.pixels)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Collect the error of the step, and report the learning rate after its last one."""
        module = cast(TokenizerTraining, pl_module)
        if trainer.fit_loop._should_accumulate() or module.step_result is None:
            return
        self._errors.append(float(module.step_result.means["mse"]))
        if trainer.global_step % self.steps:
            return
        if self._index == 0:
            self._color.sum_over_ranks(pl_module.device)
        last = self._errors[-self._measured_steps() :]
        psnr = None if self._diverged else decibels(sum(last) / len(last))
        gray = psnr is not None and psnr < self.mean_color_psnr + GRAY_MARGIN
        point = SweepPoint(self.rates[self._index], psnr, gray)
        self.points.append(point)
        if trainer.is_global_zero:
            left = len(self.rates) - len(self.points)
            self._report(point, left, left * (time.monotonic() - self._start))

    def _measured_steps(self) -> int:
        return max(1, round(MEASURED * self.steps))

    def _tolerate_divergence(self, module: TokenizerTraining) -> None:
        """Note a NaN and skip the step, instead of ending the run."""
        check = module._check_finite

        def skip_step(summary: StepSummary, result: StepResult, norms: dict[str, Tensor]) -> None:
            try:
                check(summary, result, norms)
            except DivergedError:
                self._diverged = True
                for parameter in module.parameters():
                    parameter.grad = None

        module._check_finite = skip_step


class _ColorSums:
    """Sums of pixels for the variance around the mean color."""

    def __init__(self) -> None:
        self._sum = torch.zeros(3, dtype=torch.float64)
        self._square = 0.0
        self._count = 0

    def add(self, pixels: Tensor) -> None:
        """Add pixels (B, 3, ...) in [-1, 1]."""
        values = pixels.detach().float().cpu().double().transpose(0, 1).flatten(1)
        self._sum += values.sum(1)
        self._square += float(values.square().sum())
        self._count += values.shape[1]

    def sum_over_ranks(self, device: torch.device) -> None:
        """Add the pixels of all processes. All must call this together."""
        sums = torch.tensor([*self._sum.tolist(), self._square, self._count], device=device)
        *colors, self._square, count = sum_over_ranks(sums).tolist()
        self._sum, self._count = torch.tensor(colors, dtype=torch.float64), round(count)

    def variance(self) -> float:
        """Return the mean squared error of the mean color, in squared pixel units of [-1, 1]."""
        count = max(self._count, 1)
        return self._square / (3 * count) - float((self._sum / count).square().mean())


def decibels(error: float) -> float:
    """Return the PSNR in dB of a mean squared error of pixels in [-1, 1]."""
    return 10 * math.log10(4 / max(error, 1e-12)) if math.isfinite(error) else -math.inf


def default_rates(rate: float, below: int = 4, above: int = 3) -> list[float]:
    """Return learning rates from rate / 2^below to rate * 2^above, in factors of 2."""
    return [rate * 2.0**exponent for exponent in range(-below, above + 1)]


def choose_rate(points: Iterable[SweepPoint]) -> SweepPoint | None:
    """Return the learning rate to use: the best one, or the one below if the one above has learned nothing.

    A learning rate next to one that fails may fail later in the run. The one below must be at most `SAFE_LOSS` dB worse.

    Args:
        points: results in ascending order of the learning rates.

    Returns:
        None if no learning rate has learned anything.
    """
    points = list(points)
    learned = [index for index, point in enumerate(points) if point.psnr is not None and not point.gray]
    if not learned:
        return None

    def quality(index: int) -> float:
        psnr = points[index].psnr
        return -math.inf if psnr is None or points[index].gray else psnr

    best = max(learned, key=quality)
    is_next_to_failure = best + 1 < len(points) and best + 1 not in learned
    if is_next_to_failure and best > 0 and quality(best - 1) > quality(best) - SAFE_LOSS:
        best -= 1
    return points[best]
