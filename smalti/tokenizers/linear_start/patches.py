"""Cutting images and clips into the patches that latent positions stand for.

Shapes: B batch; T frames, H, W pixels; t, h, w positions; D = C x (pixels per patch) values per patch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Stride = tuple[int, int, int]
"""Frames, height and width in pixels of a patch."""


def multiply_strides(stride: Stride, factors: Stride) -> Stride:
    """Return the stride after downsampling by factors."""
    return stride[0] * factors[0], stride[1] * factors[1], stride[2] * factors[2]


def divide_strides(stride: Stride, factors: Stride) -> Stride:
    """Return the stride after upsampling by factors."""
    return stride[0] // factors[0], stride[1] // factors[1], stride[2] // factors[2]


def to_patches(pixels: Tensor, stride: Stride) -> Tensor:
    """Cut pixels into patches, one per latent position.

    With a temporal stride s > 1, the first frame is repeated s - 1 times in front of the clip: patch 0 contains only frame
    0, like latent 0 of a causal tokenizer, and patch i > 0 the frames 1 + (i - 1) s to i s. The last frame, row and column
    are repeated to fill the last patches.

    Args:
        pixels: (B, C, T, H, W).
        stride: size of a patch.

    Returns:
        (B, t, h, w, D), with values ordered (channel, frame, row, column).
    """
    frames, height, width = pixels.shape[2:]
    t, h, w = stride
    first = pixels[:, :, :1].expand(-1, -1, t - 1, -1, -1)
    pixels = torch.cat([first, pixels], dim=2) if t > 1 else pixels
    padding = (0, -width % w, 0, -height % h, 0, -(frames - 1) % t)
    if any(padding):
        pixels = F.pad(pixels, padding, mode="replicate")
    blocks = pixels.unfold(2, t, t).unfold(3, h, h).unfold(4, w, w)  # (B, C, t', h', w', t, h, w)
    return blocks.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4)


def from_patches(patches: Tensor, stride: Stride, frames: int, height: int, width: int) -> Tensor:
    """Invert `to_patches`: (B, t, h, w, D) to (B, C, frames, height, width)."""
    blocks = patches.unflatten(-1, (-1, *stride)).permute(0, 4, 1, 5, 2, 6, 3, 7)
    pixels = blocks.flatten(6, 7).flatten(4, 5).flatten(2, 3)
    return pixels[:, :, stride[0] - 1 :][:, :, :frames, :height, :width]
