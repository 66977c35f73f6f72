"""Base classes of metrics. A metric is one class: it describes itself, accumulates over a dataset, and computes its value.

A metric compares the originals with several *candidates* at once, such as the reconstructions of a tokenizer and a
baseline. This way, a feature network processes the originals only once.

Shapes: B batch; T frames, H, W pixels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.eval.functional import mean_over_frames

Medium = Literal["images", "clips"]


class Metric(ABC):
    """A metric over a dataset.

    Subclasses declare the attributes, in the class or in the constructor, and implement `reset`, `update`, `compute` and
    `merge`. Metrics with one value per sample derive from `SampleMetric` instead and implement only `measure`.

    Attributes:
        name: name in reports. Two metrics of one evaluation must not share it.
        higher_is_better: direction of the metric.
        range: (lowest, highest) possible value; may be infinite.
        definition: exact definition of the value, for reports.
        comparable: whether published values of the metric exist. False for proxies. If True, a report decides by protocol,
            data and network which of them a value may be compared with, see `smalti.eval.published`.
        unit: unit of the values, such as "dB".
        media: whether the metric measures images, clips, or both.
        min_frames: minimum number of frames of a clip. Shorter clips are left out.
        min_samples: minimum number of samples. The metric is left out of the results if there are fewer.
        all_channels: whether it takes samples with any channels (B, C, ...), floating point in [-1, 1] unless they are
            photos. Otherwise, it gets their group rgb.
        provenance: what is needed to reproduce the values, such as the weights of a network and their SHA-256.
    """

    name: str
    higher_is_better: bool
    range: tuple[float, float]
    definition: str
    comparable: bool = True
    unit: str = ""
    media: tuple[Medium, ...] = ("images", "clips")
    min_frames: int = 1
    min_samples: int = 1
    all_channels: bool = False
    provenance: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.reset()

    @classmethod
    def variants(cls) -> dict[str, Callable[[Path | None], Metric]]:
        """Return what `smalti evaluate --metric` can build from this class: constructors by name.

        A constructor takes the folder of pretrained weights, or None for the default places. By default, the class is its
        only variant, built without arguments.
        """
        return {cls.name: lambda weights: cls()}

    @property
    def note(self) -> str | None:
        """Remark on the current value for reports, such as the number of samples; None if there is none."""
        return None

    @property
    def details(self) -> dict[str, Any]:
        """Further numbers behind the value, for reports: values that JSON can represent, by name. By default: none."""
        return {}

    @abstractmethod
    def reset(self) -> None:
        """Discard all samples. `evaluate` calls it first."""

    @abstractmethod
    def update(self, original: Tensor, candidates: Mapping[str, Tensor], names: Sequence[str]) -> None:
        """Add a batch.

        Args:
            original: (B, 3, H, W) or (B, 3, T, H, W) uint8.
            candidates: tensors like `original`, by name of the candidate. The names are the same in all batches.
            names: B names, unique over the dataset.
        """

    @abstractmethod
    def compute(self, candidate: str) -> float:
        """Return the value over all samples, a finite number.

        Args:
            candidate: name of a candidate. At least `min_samples` samples were added.
        """

    @abstractmethod
    def merge(self, other: Any) -> None:
        """Add the samples of another process.

        Args:
            other: the same metric in the other process, without its networks.
        """

    def to(self, device: torch.device | str) -> Self:
        """Move the networks among the attributes to a device."""
        for value in vars(self).values():
            if isinstance(value, nn.Module):
                value.to(device)
        return self

    def check_medium(self, medium: Medium) -> None:
        """Check that the metric measures images or clips.

        Raises:
            SmaltiError: it does not.
        """
        if medium not in self.media:
            raise SmaltiError(
                f"{self.name} is a metric of {' and '.join(self.media)}, but the samples are {medium}: leave it out, or "
                f"use a metric of {medium}."
            )

    def without_networks(self) -> Self:
        """Return a shallow copy without the networks, to send to other processes. It can only `compute` and `merge`."""
        state = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, nn.Module):
                delattr(state, name)
        return state


class SampleMetric(Metric):
    """A metric with one value per sample, whose mean over the samples is the value of the dataset.

    Subclasses declare the attributes of `Metric` and implement `measure`. The values per sample go into reports.

    Attributes:
        values: value of each sample, by name of the candidate and name of the sample.
    """

    values: dict[str, dict[str, float]]

    @abstractmethod
    def measure(self, original: Tensor, candidate: Tensor) -> Tensor:
        """Return the value of each sample.

        Args:
            original: (B, 3, H, W) or (B, 3, T, H, W) uint8.
            candidate: like `original`.

        Returns:
            (B,) float64.
        """

    def reset(self) -> None:
        """Discard all samples."""
        self.values = {}

    def update(self, original: Tensor, candidates: Mapping[str, Tensor], names: Sequence[str]) -> None:
        """Measure a batch. See `Metric.update`."""
        for candidate, samples in candidates.items():
            measured = self.measure(original, samples).tolist()
            self.values.setdefault(candidate, {}).update(zip(names, measured, strict=True))

    def compute(self, candidate: str) -> float:
        """Return the mean over the samples. The sum is exact, so that it does not depend on their order."""
        values = self.values[candidate].values()
        return math.fsum(values) / len(values)

    def merge(self, other: Self) -> None:
        """Add the samples of another process."""
        for candidate, values in other.values.items():
            self.values.setdefault(candidate, {}).update(values)


class FrameMetric(SampleMetric):
    """A metric of images. Its value for a clip is the mean over the frames.

    Frames are measured one by one, so that memory does not grow with the length of a clip.
    """

    reduction: ClassVar[str] = "per frame, averaged over the frames of a sample, then over samples"
    """How values are averaged, for `definition`."""

    @abstractmethod
    def measure_images(self, original: Tensor, candidate: Tensor) -> Tensor:
        """Return the value of each image.

        Args:
            original: (B, 3, H, W) uint8.
            candidate: like `original`.

        Returns:
            (B,) of a floating-point type.
        """

    def measure(self, original: Tensor, candidate: Tensor) -> Tensor:
        """Return (B,) float64: for clips, the mean over their frames."""
        return mean_over_frames(self.measure_images, original, candidate)
