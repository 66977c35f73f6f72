"""Settings that change during training: parts that are frozen at first, and values that follow a schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from smalti.errors import SmaltiError
from smalti.trainers.module import TokenizerTraining

Points = Sequence[tuple[int, float]]
"""A schedule: pairs of an optimizer step and a value, with ascending steps."""

_WEIGHTS = "weights."


class Curriculum(Callback):
    """Changes the training of a tokenizer from step to step. Everything is a function of the optimizer step.

    In a recipe, GQ that trains its encoder late, becomes discrete slowly and gets its entropy losses slowly:

        trainer:
          callbacks:
            - class_path: smalti.trainers.Curriculum
              init_args:
                frozen_until: {encoder: 500}
                schedules:
                  bottleneck.hardness: [[0, 0.0], [500, 1.0]]
                  bottleneck.temperature: [[0, 1.0], [500, 0.01]]
                  weights.token_entropy: [[0, 0.0], [500, 0.1]]

    Args:
        frozen_until: optimizer steps before which modules of the tokenizer, such as "encoder" or "decoder.conv_in", are not
            changed. Their gradients are computed and then discarded, also for clipping. `model.frozen` needs less time for
            modules that are never trained.
        schedules: values by name, as [step, value] pairs. Values between two steps are interpolated linearly; before the
            first and after the last one, they are constant. Names are "weights.LOSS", or a number of a module of the
            tokenizer: "bottleneck.hardness" (0: the decoder gets vectors that are not quantized, 1: codewords),
            "bottleneck.temperature" (GQ, BSQ).

    Raises:
        SmaltiError: a schedule is empty or its steps do not ascend, or a step is negative.
    """

    def __init__(
        self,
        frozen_until: dict[str, int] | None = None,
        schedules: dict[str, list[tuple[int, float]]] | None = None,
    ) -> None:
        self.frozen_until = frozen_until or {}
        self.schedules: Mapping[str, Points] = schedules or {}
        for name, step in self.frozen_until.items():
            if step < 0:
                raise SmaltiError(f"Curriculum.frozen_until has the step {step} for '{name}': use 0 or more.")
        for name, points in self.schedules.items():
            steps = [step for step, _ in points]
            if not steps or steps[0] < 0 or any(a >= b for a, b in pairwise(steps)):
                raise SmaltiError(
                    f"Curriculum.schedules has the steps {steps} for '{name}': give [step, value] pairs with ascending "
                    "steps, such as [[0, 0.0], [500, 1.0]]."
                )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the names before anything is computed.

        Raises:
            SmaltiError: a module, a number of a module or a loss is unknown.
        """
        module = cast(TokenizerTraining, pl_module)
        modules = dict(module.tokenizer.named_modules())
        for name in self.frozen_until:
            if name not in modules:
                raise SmaltiError(
                    f"Curriculum.frozen_until contains '{name}', but the tokenizer has no such module: use encoder, "
                    "decoder or a module in them, such as decoder.conv_in."
                )
        for name in self.schedules:
            if name.startswith(_WEIGHTS):
                loss = name.removeprefix(_WEIGHTS)
                if loss not in module.loss_names.all:
                    known = ", ".join(module.loss_names.all)
                    raise SmaltiError(f"Curriculum.schedules contains '{name}', but the losses are {known}.")
                continue
            owner, _, attribute = name.rpartition(".")
            value = getattr(modules.get(owner), attribute, None) if owner else None
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise SmaltiError(
                    f"Curriculum.schedules contains '{name}', which is no number of the tokenizer: use weights.LOSS, "
                    "bottleneck.hardness or bottleneck.temperature."
                )

    def apply(self, module: TokenizerTraining, step: int) -> None:
        """Set all values for an optimizer step."""
        for name, points in self.schedules.items():
            value = interpolate(points, step)
            if name.startswith(_WEIGHTS):
                module.weights[name.removeprefix(_WEIGHTS)] = value
            else:
                owner, _, attribute = name.rpartition(".")
                setattr(module.tokenizer.get_submodule(owner), attribute, value)

    def discard_gradients(self, module: TokenizerTraining, step: int) -> None:
        """Discard the gradients of modules that are still frozen in an optimizer step."""
        for name, end in self.frozen_until.items():
            if step < end:
                for parameter in module.tokenizer.get_submodule(name).parameters():
                    parameter.grad = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set all values for the step."""
        self.apply(cast(TokenizerTraining, pl_module), trainer.global_step)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Discard the gradients of modules that are still frozen."""
        self.discard_gradients(cast(TokenizerTraining, pl_module), trainer.global_step)


def interpolate(points: Points, step: int) -> float:
    """Return the value of a schedule at an optimizer step."""
    for (begin, first), (end, last) in pairwise(points):
        if begin <= step < end:
            return first + (last - first) * (step - begin) / (end - begin)
    return float(points[0][1] if step < points[0][0] else points[-1][1])
