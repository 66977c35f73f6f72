"""The baseline that a tokenizer should beat: fewer and smaller frames at equal bits, interpolated to the original size.

Processes clips frame by frame, so that a long clip needs little memory in addition to its own pixels.

Shapes: B batch; T frames, H, W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.eval.functional import unbind_frames
from smalti.pixels import pixels_to_uint8, uint8_to_pixels

METHOD = (
    "bicubic downsampling, rounding to 8 bits, bicubic upsampling, both antialiased; as many pixels of 8 bits per channel"
    " are kept as the nominal bits of the tokenizer for the sample allow, rounded to whole rows and columns; for a clip, "
    "every n-th frame is kept, starting with the first, where n is the temporal stride of the tokenizer, or less if whole"
    " frames need fewer bits; the frames between them are interpolated linearly, and the last kept frame is repeated for "
    "those after it"
)
"""Description for reports."""

_CHANNEL_BITS = 8

Factor = tuple[int, float, float]
"""Downsampling factor along (T, H, W)."""


def kept_pixel_bits(channels: int) -> int:
    """Return the bits of a pixel that the baseline keeps: 8 per channel, 24 for red, green and blue."""
    return _CHANNEL_BITS * channels


def equal_bits_factor(size: tuple[int, int, int], bits: float, temporal_stride: int, channels: int = 3) -> Factor:
    """Return the factor with which the baseline keeps a number of bits.

    Kept frames have the aspect ratio of the originals, as far as whole rows and columns allow.

    >>> equal_bits_factor((1, 128, 128), bits=24 * 32 * 32, temporal_stride=8)
    (1, 4.0, 4.0)

    Args:
        size: (T, H, W) of a sample in frames and pixels; T is 1 for an image.
        bits: bits that the kept pixels may have, see `kept_pixel_bits`. At least one pixel of each kept frame is kept in
            any case, and at most all.
        temporal_stride: every n-th frame is kept, where n is this number, or less if whole frames need fewer bits.
        channels: channels of a pixel.
    """
    frames, height, width = size
    budget = bits / kept_pixel_bits(channels)  # in pixels

    def count_kept(factor: int) -> int:
        return -(-frames // factor)

    steps = range(min(temporal_stride, frames), 0, -1)
    step = next((n for n in steps if count_kept(n) * height * width >= budget), 1)
    per_frame = budget / count_kept(step)
    rows = min(max(round(height * math.sqrt(per_frame / (height * width))), 1), height)
    columns = min(max(round(per_frame / rows), 1), width)
    return step, height / rows, width / columns


def make_baseline(samples: Tensor, factor: Factor) -> Tensor:
    """Downsample samples at 8 bits and restore their size.

    For a clip, frames 0, t, 2 t, ... are kept, where t = factor[0]. The frames between them are interpolated linearly, and
    the last kept frame is repeated for those after it. A clip of 1 + k t frames keeps its first and its last frame, like
    the latents of a causal tokenizer. Kept frames are processed by `downsample_and_upsample`.

    Args:
        samples: (B, C, H, W) or (B, C, T, H, W), uint8, or floating point in [-1, 1], which is rounded to 8 bits.
        factor: downsampling factor, such as that of `equal_bits_factor`. Sizes are rounded up, like the padding of a
            tokenizer.

    Returns:
        The same shape and kind.
    """
    if samples.is_floating_point():
        return uint8_to_pixels(make_baseline(pixels_to_uint8(samples), factor))
    frames = unbind_frames(samples)
    kept = [downsample_and_upsample(frame, factor[1:]) for frame in frames[:: factor[0]]]
    restored = [_interpolate(kept, index / factor[0]) for index in range(len(frames))]
    return torch.stack(restored, dim=2) if samples.ndim == 5 else restored[0]


def downsample_and_upsample(images: Tensor, factor: tuple[float, float]) -> Tensor:
    """Downsample images, round them to 8 bits, and upsample them again. Both steps are antialiased bicubic.

    Args:
        images: (B, C, H, W) uint8.
        factor: downsampling factor along (H, W). Sizes are rounded up, like the padding of a tokenizer.

    Returns:
        (B, C, H, W) uint8.
    """
    size = images.shape[-2:]
    small = [_divide(n, f) for n, f in zip(size, factor, strict=True)]
    downsampled = pixels_to_uint8(F.interpolate(uint8_to_pixels(images), small, mode="bicubic", antialias=True))
    return pixels_to_uint8(F.interpolate(uint8_to_pixels(downsampled), size, mode="bicubic", antialias=True))


def count_kept_pixels(samples: Tensor, factor: Factor) -> int:
    """Return the number of pixels that the baseline keeps of all samples. See `make_baseline` for the arguments."""
    sizes = (len(unbind_frames(samples)), *samples.shape[-2:])
    return len(samples) * math.prod(_divide(size, f) for size, f in zip(sizes, factor, strict=True))


def _divide(size: int, factor: float) -> int:
    """Divide and round up. A quotient that is an integer but for floating-point rounding is that integer."""
    return math.ceil(size / factor - 1e-6)


def _interpolate(kept: list[Tensor], position: float) -> Tensor:
    """Return the frame at a fractional index into the kept frames."""
    index = int(position)
    if position == index:
        return kept[index]
    following = kept[min(index + 1, len(kept) - 1)]
    return pixels_to_uint8(uint8_to_pixels(kept[index]).lerp(uint8_to_pixels(following), position - index))
