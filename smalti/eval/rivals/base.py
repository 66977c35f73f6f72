"""What a tokenizer competes with: base classes of rivals.

A rival approximates a sample with about as many bits as the tokenizer's latents of this sample. Rivals that can spend other
numbers of bits also give a rate-distortion curve.

Shapes: T frames, H, W pixels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.channel_groups import RGB, ChannelGroups, describe_groups
from smalti.eval.functional import mean_over_frames, psnr
from smalti.eval.metrics.base import Medium
from smalti.pixels import frames_as_images, pixels_to_uint8, uint8_to_pixels

MULTIPLES = (1.0, 0.5, 0.25, 2.0, 4.0)
"""Rates of a curve, as multiples of the tokenizer's rate. The first is the rate at which rivals are compared."""

_CURVE_TOLERANCE = 0.1
"""Fraction of a budget that may remain at the other rates of a curve, which need no exact rate. This saves time."""

Equal = Literal["nominal bits", "bytes"]


@dataclass(frozen=True)
class Approximation:
    """What a rival makes of a sample.

    Attributes:
        sample: the approximation, in the shape and the type of the original.
        bits: what the rival spends.
        file_bits: bits of the complete file, including what `bits` does not count; None if the rival writes no files.
    """

    sample: Tensor
    bits: float
    file_bits: float | None = None


class Rival(ABC):
    """A rival of tokenizers.

    Subclasses declare the attributes and implement `approximate`. They are stateless between samples.

    Attributes:
        name: name in reports and of the option `--rivals`.
        label: name for readers, such as "JPEG".
        description: one sentence for reports: the method, its settings, and what its bits count.
        media: whether it takes images, clips, or both.
        equal: what equals the tokenizer's nominal bits: the nominal bits of the rival, or at most the bytes of its files.
        all_channels: whether it takes samples with any channels, floating point in [-1, 1] unless they are photos.
        parallel: whether several threads may call `approximate` at the same time, and gain from it.
    """

    name: str
    label: str
    description: str
    media: tuple[Medium, ...] = ("images", "clips")
    equal: Equal = "nominal bits"
    all_channels: bool = False
    parallel: bool = False

    def find_obstacle(self) -> str | None:
        """Return why the rival cannot run on this machine, for reports, or None if it can."""
        return None

    def find_obstacle_for(self, groups: ChannelGroups) -> str | None:
        """Return why the rival cannot code samples with these channels on this machine, or None if it can."""
        if not self.all_channels and groups != RGB:
            return f"it codes red, green and blue, not the channels {describe_groups(groups)}"
        return self.find_obstacle()

    @abstractmethod
    def approximate(self, original: Tensor, bits: float) -> dict[float, Approximation]:
        """Approximate a sample at several rates.

        Args:
            original: (3, H, W) or (3, T, H, W) uint8, or with `all_channels` (C, ...) float32 in [-1, 1], on the CPU.
            bits: nominal bits of the tokenizer's latents of this sample, see `smalti.eval.nominal_bits`.

        Returns:
            Approximations by those of `MULTIPLES` of the rate that the rival can reach.
        """


@dataclass(frozen=True)
class CodedFile:
    """An encoded sample.

    Attributes:
        data: the complete file.
        counted_bytes: number of bytes without container, see `FileCodec`.
    """

    data: bytes
    counted_bytes: int


class FileCodec(Rival):
    """A codec that writes files of a chosen quality, at equal bytes.

    The quality is the highest whose file has at most as many counted bytes as the nominal bits of the sample.
    Counted are the bytes that code the content. Not counted are the container, the identification of the encoder, and
    tables or parameters that do not depend on the content: latents come without such data too. This favors the codec.

    At low rates, codecs do better at a reduced resolution. Encoding is repeated with sides divided by 2, 4, 8, ...
    (bicubic, antialiased, both ways) as long as the PSNR of the decoded sample in the original resolution grows.

    Attributes:
        highest_quality: qualities are 0 (smallest file) to this number.
        min_side: sides are not reduced below this number of pixels.
    """

    equal = "bytes"
    parallel = True
    highest_quality: int
    min_side: int

    @abstractmethod
    def encode(self, sample: Tensor, quality: int) -> CodedFile:
        """Encode a sample.

        Args:
            sample: (3, H, W) or (3, T, H, W) uint8.
            quality: 0 to `highest_quality`.
        """

    @abstractmethod
    def decode(self, data: bytes) -> Tensor:
        """Decode a file that `encode` wrote.

        Returns:
            (3, H, W) or (3, T, H, W) uint8. Rows and columns that `encode` has added follow the original ones.
        """

    def approximate(self, original: Tensor, bits: float) -> dict[float, Approximation]:
        """Approximate a sample at the rates whose budget a file can meet. See the class."""
        sides = [1]
        while math.ceil(min(original.shape[-2:]) / (2 * sides[-1])) >= self.min_side:
            sides.append(2 * sides[-1])
        resolutions = [_Resolution(self, original, divisor) for divisor in sides]
        found = {
            multiple: _best(resolutions, multiple * bits / 8, 0.0 if multiple == 1 else _CURVE_TOLERANCE)
            for multiple in MULTIPLES
        }
        return {multiple: approximation for multiple, approximation in found.items() if approximation is not None}


@dataclass
class _Resolution:
    """A sample at one resolution, and its files so far by quality."""

    codec: FileCodec
    original: Tensor
    divisor: int
    files: dict[int, CodedFile] = field(default_factory=dict)
    _sample: Tensor | None = None

    @property
    def _size(self) -> list[int]:
        return [-(-n // self.divisor) for n in self.original.shape[-2:]]

    def measure(self, quality: int) -> int:
        """Return the number of counted bytes at a quality."""
        if quality not in self.files:
            if self._sample is None:
                self._sample = resize(self.original, self._size)
            self.files[quality] = self.codec.encode(self._sample, quality)
        return self.files[quality].counted_bytes

    def approximate(self, budget: float, tolerance: float) -> Approximation | None:
        """Return the decoded file of the highest quality within a budget in bytes, or None if none is small enough."""
        sizes = {quality: file.counted_bytes for quality, file in self.files.items()}
        quality = find_quality(self.measure, budget, self.codec.highest_quality, sizes, tolerance)
        if quality is None:
            return None
        file = self.files[quality]
        height, width = self._size
        decoded = self.codec.decode(file.data)[..., :height, :width]
        sample = resize(decoded, self.original.shape[-2:])
        return Approximation(sample, 8.0 * file.counted_bytes, 8.0 * len(file.data))


def _best(resolutions: list[_Resolution], budget: float, tolerance: float) -> Approximation | None:
    """Return the approximation with the highest PSNR, from the highest resolution to the last that improves it."""
    best, best_psnr = None, -math.inf
    for resolution in resolutions:
        found = resolution.approximate(budget, tolerance)
        if found is not None:
            decibels = sample_psnr(resolution.original, found.sample)
            if decibels <= best_psnr:
                break
            best, best_psnr = found, decibels
    return best


def find_quality(
    measure: Callable[[int], float],
    budget: float,
    highest: int,
    known: Mapping[int, int] | None = None,
    tolerance: float = 0.0,
) -> int | None:
    """Return the highest quality whose size is at most a budget, or None if even quality 0 is too large.

    Sizes are assumed to grow with the quality, about exponentially: the search interpolates their logarithms, and bisects
    every other time. Where sizes are not monotone, the result still does not exceed the budget.

    Args:
        measure: function from a quality, 0 to `highest`, to a positive size.
        budget: maximum size.
        highest: highest quality.
        known: sizes that are known already, by quality; none by default.
        tolerance: fraction of the budget that may remain. The search ends as soon as a size is near enough.

    >>> find_quality(lambda quality: 10 + quality**2, budget=110, highest=100)
    10
    """
    sizes: dict[int, float] = dict(known or {})
    sizes.setdefault(0, measure(0))
    low = max((quality for quality, size in sizes.items() if size <= budget), default=None)
    if low is None:
        return None
    high = min((quality for quality, size in sizes.items() if size > budget), default=highest + 1)
    steps = 0
    while high - low > 1 and sizes[low] < (1 - tolerance) * budget:
        guess = (low + high) // 2
        if high in sizes and steps % 2 == 0:
            slope = math.log(sizes[high] / sizes[low])
            share = math.log(budget / sizes[low]) / slope if slope > 0 else 0.5
            guess = min(max(low + round(share * (high - low)), low + 1), high - 1)
        sizes[guess] = measure(guess)
        low, high = (guess, high) if sizes[guess] <= budget else (low, guess)
        steps += 1
    return low


def resize(sample: Tensor, size: list[int] | torch.Size) -> Tensor:
    """Resize the frames of a sample, bicubic and antialiased, and round them to 8 bits.

    Args:
        sample: (3, H, W) or (3, T, H, W) uint8.
        size: new height and width.
    """
    if list(sample.shape[-2:]) == list(size):
        return sample
    images = frames_as_images(sample[None])
    resized = pixels_to_uint8(
        F.interpolate(uint8_to_pixels(images), list(size), mode="bicubic", antialias=True, align_corners=False)
    )
    return resized[0] if sample.ndim == 3 else resized.transpose(0, 1)


def sample_psnr(original: Tensor, sample: Tensor) -> float:
    """Return the PSNR of (C, H, W) or (C, T, H, W) in dB, averaged over frames; see `smalti.eval.functional.psnr`."""
    return mean_over_frames(psnr, original[None], sample[None]).item()
