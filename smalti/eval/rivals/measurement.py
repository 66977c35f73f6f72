"""Measuring rivals on a part of a dataset, in one process or several.

    batches -> SampleSelection: the originals of a few samples, chosen by the hashes of their names
    all processes agree on the samples -> measure_rivals: each process measures its own -> RivalTally
    tallies of all processes -> merged -> summarize_rivals -> RivalComparison

Shapes: B batch; T frames, H, W pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from smalti.channel_groups import RGB, ChannelGroups
from smalti.distributed import gather
from smalti.eval.channel_views import metric_view
from smalti.eval.metrics.base import Metric, SampleMetric
from smalti.eval.results import RivalComparison, RivalResult
from smalti.eval.rivals.base import Approximation, Rival, sample_psnr
from smalti.seeds import derive_seed

SELECTION = "the samples whose names have the smallest hashes"
"""How samples are selected, for reports."""


@dataclass(frozen=True)
class SelectedSample:
    """A sample on which rivals are measured.

    Attributes:
        name: name of the sample.
        original: (C, H, W) or (C, T, H, W), see `measured_values`, on the CPU.
        bits: nominal bits of the tokenizer's latents of this sample.
    """

    name: str
    original: Tensor
    bits: float

    @property
    def frames(self) -> int:
        """Number of frames; 1 for an image."""
        return self.original.shape[1] if self.original.ndim == 4 else 1

    @property
    def pixels(self) -> int:
        """Number of pixels of all frames."""
        return self.original[0].numel()


@dataclass
class SampleSelection:
    """The `count` samples with the smallest hashes of their names: the same for any order and number of processes.

    Memory for `count` originals is needed.
    """

    count: int
    samples: dict[tuple[int, str], SelectedSample] = field(default_factory=dict)

    def add(self, names: Sequence[str], originals: Tensor, bits: float) -> None:
        """Add a batch: B names, (B, C, H, W) or (B, C, T, H, W), and the nominal bits of each sample."""
        for name, original in zip(names, originals, strict=True):
            key = (derive_seed(name), name)
            if len(self.samples) == self.count and (not self.count or key > max(self.samples)):
                continue
            self.samples[key] = SelectedSample(name, original.cpu().clone(), bits)
            if len(self.samples) > self.count:
                del self.samples[max(self.samples)]

    def restrict_over_ranks(self) -> list[SelectedSample]:
        """Return the samples of this process that are among the `count` smallest hashes of all processes.

        All processes must call this.
        """
        if not self.count:
            return []
        keys = sorted(key for keys in gather(list(self.samples)) for key in keys)[: self.count]
        return [self.samples[key] for key in keys if key in self.samples]


@dataclass(frozen=True)
class RatePoint:
    """What a rival spent on a sample, and what it reached.

    Attributes:
        bits: see `Approximation`.
        file_bits: see `Approximation`.
        psnr: PSNR in dB, averaged over frames.
    """

    bits: float
    file_bits: float | None
    psnr: float


@dataclass
class RivalTally:
    """What processes have measured of rivals.

    Attributes:
        samples: number of pixels, and nominal bits of the tokenizer, of each sample, by name.
        points: rates and PSNR, by name of the rival, of the sample, and multiple of the tokenizer's rate.
        obstacles: why a rival has no result, by name of the rival.
    """

    samples: dict[str, tuple[int, float]] = field(default_factory=dict)
    points: dict[str, dict[str, dict[float, RatePoint]]] = field(default_factory=dict)
    obstacles: dict[str, str] = field(default_factory=dict)

    def merge(self, other: RivalTally) -> None:
        """Add what another process has measured."""
        self.samples |= other.samples
        for rival, points in other.points.items():
            self.points.setdefault(rival, {}).update(points)
        for rival in sorted(other.obstacles):
            self.obstacles.setdefault(rival, other.obstacles[rival])


def measure_rivals(
    rivals: Sequence[Rival],
    samples: Sequence[SelectedSample],
    metrics: Iterable[Metric],
    device: torch.device,
    progress: Callable[[int], None] | None = None,
    *,
    groups: ChannelGroups = RGB,
) -> RivalTally:
    """Approximate samples by all rivals, and measure the approximations by all metrics that have values per sample.

    Args:
        rivals: the rivals.
        samples: the samples of this process.
        metrics: receive the approximations at the tokenizer's rate as candidates with the names of the rivals.
        device: device of the metrics.
        progress: called after each sample of each rival with the number of samples so far.
        groups: groups of channels of the samples.
    """
    tally = RivalTally(samples={sample.name: (sample.pixels, sample.bits) for sample in samples})
    per_sample = [metric for metric in metrics if isinstance(metric, SampleMetric)]
    done = 0
    for rival in rivals:
        obstacle = rival.find_obstacle_for(groups)
        if obstacle is not None:
            tally.obstacles[rival.name] = obstacle
            continue
        for sample, (best, points) in zip(samples, _approximate_all(rival, samples), strict=True):
            if best is None:
                tally.obstacles[rival.name] = _describe_missed_budget(sample)
                break
            tally.points.setdefault(rival.name, {})[sample.name] = points
            original, candidates = sample.original[None].to(device), {rival.name: best.sample[None].to(device)}
            for metric in per_sample:
                if sample.frames >= metric.min_frames:
                    view = partial(metric_view, groups=groups, all_channels=metric.all_channels)
                    metric.update(view(original), {name: view(x) for name, x in candidates.items()}, [sample.name])
            done += 1
            if progress is not None:
                progress(done)
    return tally


def _describe_missed_budget(sample: SelectedSample) -> str:
    size = " x ".join(map(str, sample.original.shape[1:]))
    return f"it cannot code '{sample.name}' ({size}) with as few as the {sample.bits:.0f} nominal bits of the tokenizer"


def _approximate_all(
    rival: Rival, samples: Sequence[SelectedSample]
) -> Iterator[tuple[Approximation | None, dict[float, RatePoint]]]:
    """Yield, for each sample in order, the approximation at the tokenizer's rate, and all rates with their PSNR."""

    def approximate(sample: SelectedSample) -> tuple[Approximation | None, dict[float, RatePoint]]:
        found = rival.approximate(sample.original, sample.bits)
        points = {
            multiple: RatePoint(a.bits, a.file_bits, sample_psnr(sample.original, a.sample))
            for multiple, a in found.items()
        }
        return found.get(1.0), points

    # The codecs release the interpreter's lock while they encode.
    with ThreadPoolExecutor(_count_threads()) if rival.parallel else nullcontext() as pool:
        yield from (pool.map(approximate, samples) if pool else map(approximate, samples))


def _count_threads() -> int:
    """Return this process's share of the processors that it may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def summarize_rivals(
    tally: RivalTally, rivals: Sequence[Rival], metrics: Iterable[Metric], tokenizer: str
) -> RivalComparison:
    """Return the results of all rivals without an obstacle.

    Args:
        tally: what all processes have measured, of at least one sample.
        rivals: the rivals.
        metrics: the metrics of all processes.
        tokenizer: name of the candidate that is the tokenizer.
    """
    pixels = sum(count for count, _ in tally.samples.values())
    values = {metric.name: metric.values for metric in metrics if isinstance(metric, SampleMetric)}

    def means(candidate: str) -> dict[str, float]:
        found = {name: by_candidate.get(candidate, {}) for name, by_candidate in values.items()}
        return {name: _mean([v[sample] for sample in tally.samples if sample in v]) for name, v in found.items() if v}

    results = {}
    for rival in rivals:
        if rival.name in tally.obstacles:
            continue
        points = tally.points[rival.name]
        files = [bits for point in points.values() if (bits := point[1.0].file_bits) is not None]
        results[rival.name] = RivalResult(
            label=rival.label,
            description=rival.description,
            equal=rival.equal,
            bits_per_pixel=math.fsum(point[1.0].bits for point in points.values()) / pixels,
            file_bits_per_pixel=math.fsum(files) / pixels if files else None,
            metrics=means(rival.name),
            curve=_curve(points, pixels),
        )
    rate = math.fsum(bits for _, bits in tally.samples.values()) / pixels
    return RivalComparison(tuple(sorted(tally.samples)), rate, means(tokenizer), results)


def _curve(points: Mapping[str, Mapping[float, RatePoint]], pixels: int) -> tuple[tuple[float, float], ...]:
    """Return (bits per pixel, mean PSNR) at the multiples of the tokenizer's rate that all samples have."""
    shared = set.intersection(*(set(by_multiple) for by_multiple in points.values()))
    at_multiples = [[by_multiple[multiple] for by_multiple in points.values()] for multiple in sorted(shared)]
    return tuple(
        (math.fsum(point.bits for point in at_multiple) / pixels, _mean([point.psnr for point in at_multiple]))
        for at_multiple in at_multiples
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
