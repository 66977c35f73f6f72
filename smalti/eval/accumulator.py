"""The state of an evaluation in one process, and how the states of all processes are merged."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.codebook_usage import IdCounts
from smalti.eval.examples import ExampleSelection
from smalti.eval.metrics.base import Medium, Metric
from smalti.eval.rivals.measurement import RivalTally


@dataclass
class Accumulator:
    """The state of an evaluation in one process. Merged states equal that of one process with the whole dataset.

    Attributes:
        metrics: the metrics, which hold what they have accumulated. Every process has the same metrics in the same order.
        examples: the samples that are kept to look at.
        medium: whether the samples are images or clips; None before the first sample.
        names: names of the samples.
        digests: SHA-256 of the shape and the measured values of each sample, by name.
        measured: number of samples that each metric measured, by name of the metric.
        counts: counts of ids, one per token of a position; empty if the tokenizer is continuous.
        pixels: number of pixels of all samples.
        positions: number of latent positions of all samples.
        baseline_pixels: number of pixels that the baseline keeps.
        rivals: what was measured of rivals.
    """

    metrics: Sequence[Metric]
    examples: ExampleSelection
    medium: Medium | None = None
    names: set[str] = field(default_factory=set)
    digests: dict[str, bytes] = field(default_factory=dict)
    measured: Counter[str] = field(default_factory=Counter)
    counts: list[IdCounts] = field(default_factory=list)
    pixels: int = 0
    positions: int = 0
    baseline_pixels: int = 0
    rivals: RivalTally = field(default_factory=RivalTally)

    def add_names(self, names: Iterable[str], medium: Medium | None) -> None:
        """Register samples before they are measured.

        Args:
            names: names of the samples.
            medium: whether they are images or clips; None if there are no samples.

        Raises:
            SmaltiError: a sample was registered before, or images and clips are mixed.
        """
        if None not in (medium, self.medium) and medium != self.medium:
            raise SmaltiError(
                "The dataset mixes images and clips, whose values have no common mean: evaluate them separately."
            )
        self.medium = medium or self.medium
        for name in names:
            if name in self.names:
                raise SmaltiError(
                    f"Sample '{name}' occurs twice and would be counted twice: give every sample a unique name, and every "
                    "process its own part of the dataset, without padding."
                )
            self.names.add(name)

    def add_digests(self, names: Iterable[str], samples: Tensor) -> None:
        """Record which samples are measured: (B, C, H, W) or (B, C, T, H, W), see `measured_values`."""
        for name, sample in zip(names, samples.cpu(), strict=True):
            digest = hashlib.sha256(str(tuple(sample.shape)).encode())
            digest.update(sample.contiguous().numpy().data)
            self.digests[name] = digest.digest()

    def samples_sha256(self) -> str:
        """Return a SHA-256 of the names and pixels of all samples, in any order, as 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for name in sorted(self.digests):
            digest.update(name.encode(errors="surrogateescape") + b"\0" + self.digests[name])
        return digest.hexdigest()

    def merge(self, other: Accumulator) -> None:
        """Add what another process measured.

        Raises:
            SmaltiError: both processes measured the same sample, or one has images and the other clips.
        """
        self.add_names(other.names, other.medium)
        self.digests |= other.digests
        self.measured.update(other.measured)
        for metric, theirs in zip(self.metrics, other.metrics, strict=True):
            metric.merge(theirs)
        for counts, theirs in zip(self.counts, other.counts, strict=True):
            counts.merge(theirs)
        self.pixels += other.pixels
        self.positions += other.positions
        self.baseline_pixels += other.baseline_pixels
        self.examples.merge(other.examples)
        self.rivals.merge(other.rivals)


@dataclass(frozen=True)
class Part:
    """What one process contributes to an evaluation.

    Attributes:
        accumulator: what it has measured.
        failure: message of the error that stopped it; None without an error.
    """

    accumulator: Accumulator
    failure: str | None

    @classmethod
    def of(cls, accumulator: Accumulator, failure: SmaltiError | None) -> Part:
        """Return the part of this process, without the networks of its metrics, which other processes do not need."""
        metrics = [metric.without_networks() for metric in accumulator.metrics]
        return cls(replace(accumulator, metrics=metrics), None if failure is None else str(failure))


def merge_parts(parts: Sequence[Part]) -> Accumulator:
    """Merge the parts of all processes.

    Raises:
        SmaltiError: the failure of the lowest rank that has one, or two processes measured the same sample.
    """
    for part in parts:
        if part.failure is not None:
            raise SmaltiError(part.failure)
    merged = parts[0].accumulator
    for part in parts[1:]:
        merged.merge(part.accumulator)
    return merged
