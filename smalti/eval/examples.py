"""Which samples of a dataset are kept to look at, with bounded memory and for any number of processes.

The ranking of the samples is unknown until the last one is measured. So several short lists are kept at the same time, each
of the first samples in an order that is known when a sample arrives:

    worst, best         by the first metric that has values per sample
    detailed, smooth    by the detail of the original: such samples tend to be worst and best for every tokenizer
    drawn               by a SHA-256 of the name: a random draw that is the same in every evaluation

The last three depend on the data only, so that two reports on the same data share samples to compare.

Shapes: T frames, H, W pixels.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from smalti.eval.results import Example

MAX_FRAMES = 64
"""Maximum number of frames of a clip that an example keeps."""

MAX_CLIP_BYTES = 1 << 25
"""Maximum size of a clip that an example keeps, 32 MiB. Further frames are dropped, but at least one is kept."""

MAX_SIDE = 2048
"""Maximum height and width of an example in pixels. The center of larger samples is kept."""

_BLOCK = 8  # pixels; the smallest samples have 16

Key = tuple[float | str, str]
"""Place of a sample in an order, smallest first; the second item is its name."""


@dataclass(frozen=True)
class Candidate:
    """What decides whether a sample is kept.

    Attributes:
        name: name of the sample.
        quality: value of the metric that ranks the samples, higher is better; None if no metric has values per sample.
        detail: see `measure_detail`.
    """

    name: str
    quality: float | None
    detail: float

    def keys(self) -> dict[str, Key]:
        """Return the place of the sample in each order, by name of the list."""
        digest = hashlib.sha256(self.name.encode(errors="surrogateescape")).hexdigest()
        keys: dict[str, Key] = {
            "detailed": (-self.detail, self.name),
            "smooth": (self.detail, self.name),
            "drawn": (digest, self.name),
        }
        if self.quality is not None:
            keys |= {"worst": (self.quality, self.name), "best": (-self.quality, self.name)}
        return keys


@dataclass
class ExampleSelection:
    """The examples that were kept so far. The result depends neither on the order of the samples nor on their processes.

    Attributes:
        size: maximum number of examples. A sixth each are the worst, the best, the most detailed and the smoothest; the
            others are drawn.
        kept: examples, with what decided about them, by name.
    """

    size: int
    kept: dict[str, tuple[Candidate, Example]] = field(default_factory=dict)
    _lists: dict[str, list[Key]] = field(default_factory=dict)

    def add(self, candidate: Candidate, build: Callable[[], Example]) -> None:
        """Offer a sample. It is kept as long as it is in one of the lists.

        Args:
            candidate: what decides about it. Its name was not offered before.
            build: returns the example. It is called only if the sample is kept.
        """
        lengths = {"drawn": self.size - 4 * (self.size // 6)}
        for name, key in candidate.keys().items():
            self._lists[name] = heapq.nsmallest(lengths.get(name, self.size // 6), [*self._lists.get(name, []), key])
        listed = {name for keys in self._lists.values() for _, name in keys}
        if candidate.name in listed:
            self.kept[candidate.name] = (candidate, build())
        self.kept = {name: entry for name, entry in self.kept.items() if name in listed}

    def merge(self, other: ExampleSelection) -> None:
        """Offer the samples that another process kept."""
        for candidate, example in other.kept.values():
            self.add(candidate, lambda example=example: example)

    def ranked(self) -> tuple[Example, ...]:
        """Return the examples from the worst to the best, or by name if no metric has values per sample."""
        order = sorted(self.kept.values(), key=lambda entry: (entry[0].quality or 0.0, entry[0].name))
        return tuple(example for _, example in order)


def measure_detail(sample: Tensor) -> float:
    """Return the mean variance within blocks of 8 x 8 pixels, of an image or of the first frame of a clip.

    Args:
        sample: (3, H, W) or (3, T, H, W) uint8, at least 8 pixels high and wide.
    """
    image = (sample[:, 0] if sample.ndim == 4 else sample).cpu().double()
    height, width = (size - size % _BLOCK for size in image.shape[1:])
    blocks = image[:, :height, :width].unflatten(2, (-1, _BLOCK)).unflatten(1, (-1, _BLOCK))
    return float(blocks.var(dim=(2, 4), correction=0).mean())


def copy_part(sample: Tensor) -> Tensor:
    """Return what an example keeps of a sample, as a copy on the CPU: a view would keep the whole batch in memory.

    Args:
        sample: (3, H, W) or (3, T, H, W) uint8.

    Returns:
        The center, at most `MAX_SIDE` high and wide; of a clip the first frames.
    """
    part = crop_center(sample, MAX_SIDE)
    if part.ndim == 4:
        frame_bytes = part[:, 0].numel()
        part = part[:, : max(1, min(MAX_FRAMES, MAX_CLIP_BYTES // frame_bytes))]
    return part.cpu().clone()


def crop_center(sample: Tensor, side: int) -> Tensor:
    """Return the center of a sample (..., H, W), at most `side` pixels high and wide."""
    for axis in (-2, -1):
        excess = max(sample.shape[axis] - side, 0)
        sample = sample.narrow(axis, excess // 2, sample.shape[axis] - excess)
    return sample


def evenly_spaced(count: int, total: int) -> list[int]:
    """Return at most `count` of the indices below `total`, evenly spaced, with the first and the last.

    >>> evenly_spaced(3, 9), evenly_spaced(8, 2), evenly_spaced(1, 5)
    ([0, 4, 8], [0, 1], [0])
    """
    if min(count, total) < 2:
        return list(range(min(count, total)))
    count = min(count, total)
    return [round(index * (total - 1) / (count - 1)) for index in range(count)]
