"""The command line of `smalti find-lr`: a training that tries learning rates and writes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl

from smalti.cli.run_callback import RunFolder
from smalti.cli.training_cli import TrainingCLI
from smalti.errors import SmaltiError
from smalti.trainers import Checkpoints, Health, ReconstructionGrid, TokenizerEMA
from smalti.trainers.learning_rate_sweep import LearningRateSweep, RepeatedBatches, SweepPoint, choose_rate

_BAR = 40
"""Width of the plot in characters."""


class SweepCLI(TrainingCLI):
    """Runs a `LearningRateSweep` with the settings of a recipe, and prints the result.

    Args:
        arguments: the arguments as the user typed them.
        options: the prepared options without those of the sweep.
        steps: optimizer steps of each learning rate.
        rates: learning rates; None for those around the recipe's.
    """

    def __init__(self, arguments: list[str], options: list[str], steps: int, rates: Sequence[float] | None) -> None:
        self._sweep = LearningRateSweep(steps, rates, _print_point)
        self._prepared = options
        super().__init__("find-lr", arguments)

    def _options(self) -> list[str]:
        return self._prepared

    def _instantiate_checking_trainer(self) -> pl.Trainer:
        """Build a trainer that writes nothing, validates nothing and stops when all learning rates were tried."""
        self.trainer_defaults["callbacks"].append(self._sweep)
        trainer = self._build_trainer(
            logger=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            min_steps=None,
            min_epochs=None,
            max_epochs=-1,
            max_time=None,
        )
        unused = (Checkpoints, Health, ReconstructionGrid, RunFolder, TokenizerEMA)
        callbacks: list[Any] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, unused)]
        return trainer

    def _check(self, **kwargs: Any) -> None:
        """Try the learning rates, and print the table and a suggestion.

        Raises:
            SmaltiError: no learning rate has learned anything.
        """
        self.model.scheduler = None
        data, count = self.datamodule, self._sweep.steps * self.trainer.accumulate_grad_batches
        build = data.train_dataloader
        data.train_dataloader = lambda: RepeatedBatches(build(), count)
        self.trainer.fit(**kwargs)
        if self.trainer.is_global_zero:
            print("\n".join(describe_sweep(self._sweep)), flush=True)
            if choose_rate(self._sweep.points) is None:
                raise SmaltiError(
                    "No learning rate has learned anything: try smaller ones (--rates), more --steps, or check the data "
                    "and the losses."
                )


def describe_sweep(sweep: LearningRateSweep) -> list[str]:
    """Return the lines of the table with its plot, and the suggestion, if a learning rate has learned anything."""
    points, floor = sweep.points, sweep.mean_color_psnr
    chosen = choose_rate(points)
    best = max((point.psnr for point in points if point.psnr is not None), default=floor)
    span = max(best - floor, 1e-6)
    lines = [
        "",
        f"PSNR of the training batches in the last steps of each learning rate; the mean color has {floor:.2f} dB:",
    ]
    for point in points:
        value = "NaN" if point.psnr is None else f"{point.psnr:.2f} dB"
        bar = "" if point.psnr is None else "#" * round(_BAR * min(1.0, max(0.0, (point.psnr - floor) / span)))
        marks = [
            *(["diverged"] if point.psnr is None else ["gray"] if point.gray else []),
            *(["recipe"] if math.isclose(point.rate, sweep.base_rate) else []),
            *(["suggested"] if point is chosen else []),
        ]
        lines.append(f"  {point.rate:<10.3g} {value:>9}  {bar:<{_BAR}} {', '.join(marks)}".rstrip())
    if chosen is None:
        return lines
    lines.append("")
    if len(points) > 1 and chosen in (points[0], points[-1]):
        side, name = ("smaller", "smallest") if chosen is points[0] else ("larger", "largest")
        lines.append(f"The {name} one was the best: try {side} ones too, with --rates.")
    adam = "" if sweep.adam_factor is None else f" --model.optimizer.adam_lr {chosen.rate * sweep.adam_factor:.3g}"
    return [*lines, f"Suggestion: --model.optimizer.lr {chosen.rate:.3g}{adam}"]


def _print_point(point: SweepPoint, left: int, seconds: float) -> None:
    value = "NaN" if point.psnr is None else f"{point.psnr:.2f} dB"
    time_left = f", {timedelta(seconds=round(seconds))} left" if left else ""
    print(f"learning rate {point.rate:.3g}: {value}{time_left}", flush=True)
