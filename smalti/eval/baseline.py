"""The baseline that a tokenizer should beat: fewer and smaller frames, interpolated back to the original size.

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
    "bicubic downsampling by the factor, rounding to 8 bits, bicubic upsampling, both antialiased; for a clip, every "
    "factor[0]-th frame is kept, starting with the first, the frames between them are interpolated linearly, and the last "
    "kept frame is repeated for those after it"
)
"""Description for reports."""


def make_baseline(samples: Tensor, factor: tuple[int, int, int]) -> Tensor:
    """Downsample samples at 8 bits and restore their size.

    For a clip, frames 0, t, 2 t, ... are kept, where t = factor[0]. The frames between them are interpolated linearly, and
    the last kept frame is repeated for those after it. A clip of 1 + k t frames keeps its first and its last frame, like
    the latents of a causal tokenizer. Kept frames are processed by `downsample_and_upsample`.

    Args:
        samples: (B, 3, H, W) or (B, 3, T, H, W) uint8.
        factor: downsampling factor along (T, H, W). Sizes are rounded up, like the padding of a tokenizer.

    Returns:
        The same shape, uint8.
    """
    frames = unbind_frames(samples)
    kept = [downsample_and_upsample(frame, factor[1:]) for frame in frames[:: factor[0]]]
    restored = [_interpolate(kept, index / factor[0]) for index in range(len(frames))]
    return torch.stack(restored, dim=2) if samples.ndim == 5 else restored[0]


def downsample_and_upsample(images: Tensor, factor: tuple[int, int]) -> Tensor:
    """Downsample images, round them to 8 bits, and upsample them again. Both steps are antialiased bicubic.

    Args:
        images: (B, 3, H, W) uint8.
        factor: downsampling factor along (H, W). Sizes are rounded up, like the padding of a tokenizer.

    Returns:
        (B, 3, H, W) uint8.
    """
    size = images.shape[-2:]
    small = [-(-n // f) for n, f in zip(size, factor, strict=True)]
    downsampled = pixels_to_uint8(F.interpolate(uint8_to_pixels(images), small, mode="bicubic", antialias=True))
    return pixels_to_uint8(F.interpolate(uint8_to_pixels(downsampled), size, mode="bicubic", antialias=True))


def count_kept_pixels(samples: Tensor, factor: tuple[int, int, int]) -> int:
    """Return the number of pixels that the baseline keeps of all samples. See `make_baseline` for the arguments."""
    sizes = (len(unbind_frames(samples)), *samples.shape[-2:])
    return len(samples) * math.prod(-(-size // f) for size, f in zip(sizes, factor, strict=True))


def _interpolate(kept: list[Tensor], position: float) -> Tensor:
    """Return the frame at a fractional index into the kept frames."""
    index = int(position)
    if position == index:
        return kept[index]
    following = kept[min(index + 1, len(kept) - 1)]
    return pixels_to_uint8(uint8_to_pixels(kept[index]).lerp(uint8_to_pixels(following), position - index))
