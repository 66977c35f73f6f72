"""Learning rate schedules: linear warm-up with cosine decay, and checks of any schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from smalti.errors import SmaltiError

Decay = Literal["cosine", "constant"]
"""How the learning rate continues after the warm-up."""


def warmup_factor(
    step: int, warmup_steps: int, decay: Decay = "cosine", minimum: float = 0.0, total_steps: int | None = None
) -> float:
    """Return the factor of the learning rate in an optimizer step.

    Up to step `warmup_steps`: (step + 1) / (warmup_steps + 1). Then 1 ("constant"), or ("cosine", arXiv 1608.03983,
    equation 5) minimum + (1 - minimum) (1 + cos(pi p)) / 2, where p grows linearly from 0 at step `warmup_steps` to 1 at
    step `total_steps`. After that: minimum.

    Args:
        step: number of optimizer steps before this one.
        warmup_steps: number of steps at the start whose factor is less than 1.
        decay: "cosine" or "constant".
        minimum: factor at the end of the cosine, in [0, 1].
        total_steps: number of steps until the minimum; not used before the decay and by "constant".

    Raises:
        SmaltiError: the cosine decay has begun, but there is no `total_steps`.
    """
    if step <= warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if decay == "constant":
        return 1.0
    if total_steps is None:
        raise SmaltiError("The cosine decay of a schedule needs total_steps: give the number of steps of the run.")
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * progress)) / 2


class WarmupSchedule(LRScheduler):
    """Linear warm-up, then cosine decay or a constant learning rate.

    Multiplies the learning rate of each parameter group with the same factor (`warmup_factor`). The discriminator's own
    learning rate (`GANLoss.learning_rate`) keeps its ratio to that of the tokenizer.

        scheduler: {class_path: WarmupSchedule, init_args: {warmup_steps: 1000}}

    A run that is resumed with a larger `max_steps` continues like a run with that number of steps from the start.

    Args:
        optimizer: the optimizer. Its learning rates are those after the warm-up.
        warmup_steps: optimizer steps at the start with a lower learning rate. The first step has the factor
            1 / (warmup_steps + 1).
        decay: "cosine" or "constant".
        minimum: learning rate at the end of the cosine, as a fraction of that after the warm-up, in [0, 1].
        total_steps: optimizer steps until the minimum; null: the trainer's max_steps, if `TokenizerTraining` uses it.

    Raises:
        SmaltiError: an argument is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int = 1000,
        decay: Decay = "cosine",
        minimum: float = 0.0,
        total_steps: int | None = None,
    ) -> None:
        if warmup_steps < 0:
            raise SmaltiError(f"The schedule's warmup_steps is {warmup_steps}: use at least 0.")
        if decay not in get_args(Decay):
            raise SmaltiError(f"The schedule's decay is '{decay}': use cosine or constant.")
        if not 0 <= minimum <= 1:
            raise SmaltiError(f"The schedule's minimum is {minimum}: use a fraction of the learning rate, in [0, 1].")
        if total_steps is not None and total_steps < 1:
            raise SmaltiError(f"The schedule's total_steps is {total_steps}: use at least 1, or null for max_steps.")
        self.warmup_steps = warmup_steps
        self.decay: Decay = decay
        self.minimum = minimum
        self.total_steps = total_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each parameter group in the current step."""
        factor = warmup_factor(self.last_epoch, self.warmup_steps, self.decay, self.minimum, self.total_steps)
        return [lr * factor for lr in self.base_lrs]

    def set_run_length(self, max_steps: int) -> None:
        """Let the cosine end at the end of the run, unless `total_steps` was given.

        Args:
            max_steps: number of optimizer steps of the run; -1 if it is not known.

        Raises:
            SmaltiError: the number is not known, or the learning rate would be 0 before the end of the run.
        """
        if self.decay == "constant":
            return
        if self.total_steps is None and max_steps < 1:
            raise SmaltiError(
                "The schedule WarmupSchedule needs the length of the run: set trainer.max_steps, or decay: constant."
            )
        if self.total_steps is None:
            self.total_steps = max_steps
        elif self.minimum == 0 and not 0 < max_steps <= self.total_steps:
            raise SmaltiError(
                f"The learning rate of the schedule WarmupSchedule is 0 after {self.total_steps} steps, but the trainer's "
                f"max_steps is {max_steps}: remove total_steps from model.scheduler to decay until max_steps."
            )


def build_schedule(build: Callable[[Optimizer], Any], optimizer: Optimizer, max_steps: int) -> Any:
    """Build a learning rate schedule for a run, and check that it fits.

    Args:
        build: builds the schedule.
        optimizer: optimizer whose groups have a name and their own learning rates.
        max_steps: number of optimizer steps of the run; -1 if it is not known.

    Raises:
        SmaltiError: the schedule cannot be built, ends before the run, or replaces a group's own learning rate.
    """
    own = [float(group["lr"]) for group in optimizer.param_groups]
    try:
        schedule = build(optimizer)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise SmaltiError(f"The learning rate schedule cannot be built ({error}): check model.scheduler.") from error
    if isinstance(schedule, WarmupSchedule):
        schedule.set_run_length(max_steps)
    elif isinstance(schedule, OneCycleLR) and not 0 < max_steps <= schedule.total_steps:
        raise SmaltiError(
            f"The schedule OneCycleLR ends after {schedule.total_steps} steps, but the trainer's max_steps is {max_steps}: "
            "set both to the same number with --model.scheduler.total_steps and --trainer.max_steps, or use "
            "WarmupSchedule, which ends at max_steps."
        )
    _check_ratios(schedule, optimizer, own)
    return schedule


def _check_ratios(schedule: Any, optimizer: Optimizer, own: list[float]) -> None:
    """Check that a schedule scales a group's own learning rate. OneCycleLR and CyclicLR replace all learning rates."""
    first = float(optimizer.param_groups[0].get("initial_lr", own[0]))
    for group, rate in zip(optimizer.param_groups, own, strict=True):
        ratio = float(group.get("initial_lr", rate)) / first if first else 0.0
        if rate != own[0] and not math.isclose(ratio * own[0], rate, rel_tol=1e-6):
            raise SmaltiError(
                f"The schedule {type(schedule).__name__} replaces the learning rate of the {group['name']}, {rate}: use "
                "WarmupSchedule, which keeps the ratio of the learning rates, or remove model.gan.learning_rate."
            )
