"""Haar wavelets of images and clips, which turn patches into channels.

Shapes: B batch; C channels; T frames, H, W pixels; p patch size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smalti.tokenizers.base import StreamState

_IMAGE_AXES = (3, 2)
"""Axes of (B, C, H, W) in the order in which Cosmos transforms them: columns, then rows."""

_CLIP_AXES = (2, 3, 4)
"""Axes of (B, C, T, H, W): frames, rows, columns."""


def haar(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Split neighboring pairs (a, b) along each axis into means (a + b) / 2 and half differences (a - b) / 2.

    The orthonormal transform has factors 1 / sqrt(2). Cosmos divides by another sqrt(2) per axis, so that pixels in
    [-1, 1] remain in [-1, 1].

    Args:
        x: (B, C, ...), of even sizes along the axes.
        axes: axes to transform, the first of which becomes the slowest of the bands.

    Returns:
        (B, 2^n C, ...) for n axes, of half the sizes. The channels of a band follow each other: for two axes, all channels
        of the bands (mean, mean), (mean, difference), (difference, mean), (difference, difference).
    """
    bands = [x]
    for axis in axes:
        pairs = [band.unflatten(axis, (-1, 2)).unbind(axis + 1) for band in bands]
        bands = [half for a, b in pairs for half in ((a + b) / 2, (a - b) / 2)]
    return torch.cat(bands, dim=1)


def inverse_haar(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Invert `haar`: map (B, 2^n C, ...) to (B, C, ...) of twice the sizes."""
    bands = list(x.chunk(2 ** len(axes), dim=1))
    for axis in reversed(axes):
        halves = zip(bands[::2], bands[1::2], strict=True)
        bands = [torch.stack([mean + half, mean - half], axis + 1).flatten(axis, axis + 1) for mean, half in halves]
    return bands[0]


def image_patches(images: Tensor, patch: int) -> Tensor:
    """Map (B, C, H, W) to (B, C p^2, H / p, W / p) by log2(p) transforms of all bands."""
    for _ in range(patch.bit_length() - 1):
        images = haar(images, _IMAGE_AXES)
    return images


def image_pixels(patches: Tensor, patch: int) -> Tensor:
    """Invert `image_patches`."""
    for _ in range(patch.bit_length() - 1):
        patches = inverse_haar(patches, _IMAGE_AXES)
    return patches


def clip_patches(layer: nn.Module, x: Tensor, patch: int, state: StreamState) -> Tensor:
    """Map a clip to patches of p frames by log2(p) transforms. The first frame, repeated p times, is the first patch.

    Args:
        layer: the key of the stream.
        x: (B, C, 1 + k p, H, W), or (B, C, k p, H, W) in later chunks.
        patch: frames, height and width p of a patch.
        state: state of the stream.

    Returns:
        (B, C p^3, 1 + k, H / p, W / p), or k frames in later chunks.
    """
    if state.is_first_chunk((layer, "patches")):
        x = torch.cat([x[:, :, :1].expand(-1, -1, patch - 1, -1, -1), x], dim=2)
    for _ in range(patch.bit_length() - 1):
        x = haar(x, _CLIP_AXES)
    return x


def clip_pixels(layer: nn.Module, patches: Tensor, patch: int, state: StreamState) -> Tensor:
    """Invert `clip_patches`. Of the first patch, only the last frame is kept."""
    for _ in range(patch.bit_length() - 1):
        patches = inverse_haar(patches, _CLIP_AXES)
    return patches[:, :, patch - 1 :] if state.is_first_chunk((layer, "pixels")) else patches
