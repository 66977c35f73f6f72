"""What the checks of a run's health look at: the measurements of one validation, and a short history."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from smalti.trainers.health.code_usage import CodeUsage
from smalti.trainers.health.colors import Colors


@dataclass
class HistoryPoint:
    """A validation in the history of a run.

    Attributes:
        step: optimizer step.
        psnr: PSNR on the validation data in dB.
        learning_rate: learning rate of the tokenizer, as a fraction of the largest of the run so far.
        with_gan: whether the GAN losses had started.
    """

    step: int
    psnr: float
    learning_rate: float = 1.0
    with_gan: bool = False


@dataclass
class TrainingRecord:
    """What only training knows. It is part of checkpoints.

    Attributes:
        history: the validations of the run so far, the last one last.
        losses: mean of each unweighted loss since the validation before.
        gan_steps: optimizer steps with GAN losses so far.
        chance: loss of a discriminator that cannot distinguish anything; None without a GAN loss.
        weights: weights of the losses by name.
        gradient_shares: see `measure_gradient_shares`; empty if not measured.
        learning_rate: current learning rate of the tokenizer.
        peak_learning_rate: largest learning rate of the run so far.
        warmed_up: whether the learning rate has reached half of the recipe's.
        max_steps: optimizer steps of the run; -1 if there is no limit.
    """

    history: list[HistoryPoint] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    gan_steps: int = 0
    chance: float | None = None
    weights: dict[str, float] = field(default_factory=dict)
    gradient_shares: dict[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    peak_learning_rate: float | None = None
    warmed_up: bool = True
    max_steps: int = -1

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values, which any checkpoint can contain."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingRecord:
        """Invert `to_dict`. Unknown values, of a later version, are ignored."""
        known = {name: value for name, value in values.items() if name in cls.__dataclass_fields__}
        points = [HistoryPoint(**point) for point in known.pop("history", [])]
        return cls(**known, history=points)


@dataclass
class HealthRecord:
    """Everything that the checks look at.

    Attributes:
        step: optimizer steps that the tokenizer was trained; None if unknown.
        psnr: PSNR in dB on the samples, mean over samples.
        baselines: the same of each baseline that was measured, see `smalti.trainers.health.baselines`.
        codes: usage of the codes of each branch.
        colors: contrast, saturation and mean error.
        training: what only training knows; None for a tokenizer without this record.
        samples: number of samples.
    """

    step: int | None
    psnr: float
    baselines: dict[str, float]
    codes: list[CodeUsage]
    colors: Colors
    training: TrainingRecord | None = None
    samples: int = 0
