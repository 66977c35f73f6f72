"""Rotary position embeddings of latent grids (RoFormer, arXiv 2104.09864, in two dimensions).

Coordinates of a grid of any size lie on the grid of a training image, which has 8 x 8 positions. The encoder and the
decoder space them differently, as in the released code. They agree for 8 rows or columns.

Shapes: B images; M heads; N tokens; D channels per head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_TRAINING_SIZE = 8
"""Rows and columns of latents of a training image: 256 pixels at stride 32."""

_BASE = 10000.0
"""Ratio between the highest and the lowest frequency of the rotations."""

Spacing = Callable[[Tensor], Tensor]
"""Maps the indices 0, ..., n - 1 of rows or columns to coordinates in (0, 8)."""


def encoder_spacing(index: Tensor) -> Tensor:
    """Return the coordinates of rows or columns in the encoder: equal steps from 0.5 to 7.5.

    The released code computes 0 / 0 for a single row or column. Here its coordinate is 0.5.

    Args:
        index: 0, ..., n - 1.
    """
    return index * (_TRAINING_SIZE - 1) / index[-1].clamp_min(1) + 0.5


def decoder_spacing(index: Tensor) -> Tensor:
    """Return the coordinates of rows or columns in the decoder: equal steps, of which the last ends at 7.5.

    Args:
        index: 0, ..., n - 1.
    """
    return (index + 0.5) * (_TRAINING_SIZE - 0.5) / (index[-1] + 0.5)


def rotation_angles(x: Tensor, registers: int, head_dim: int, spacing: Spacing) -> Tensor:
    """Return the angle by which each pair of channels of a query or a key is rotated.

    The first half of the pairs rotates by the column of a position, the second half by its row, each with the frequencies
    10000^(-2 j / (D / 2)) for j = 0, ..., D / 4 - 1. Registers are not rotated, and coordinates are counted from 1.

    Args:
        x: feature map (B, C, h, w), for its size and device.
        registers: number of registers, the tokens before the positions.
        head_dim: channels D of a head, a multiple of 4.
        spacing: coordinates of rows and columns.

    Returns:
        (registers + h w, D / 2) in radians, in float32, or in float64 if x is. Half precision would move the positions.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    height, width = x.shape[-2:]
    pairs = torch.arange(head_dim // 4, device=x.device, dtype=dtype)
    frequencies = _BASE ** (-4 * pairs / head_dim)
    rows, columns = (
        (spacing(torch.arange(size, device=x.device, dtype=dtype)) + 1)[:, None] * frequencies
        for size in (height, width)
    )
    grid = torch.cat([columns.expand(height, -1, -1), rows.unsqueeze(1).expand(-1, width, -1)], dim=-1)
    return torch.cat([grid.new_zeros(registers, head_dim // 2), grid.flatten(0, 1)])


def rotate_pairs(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the pairs of channels (0, 1), (2, 3), ...

    Args:
        x: queries or keys (B, M, N, D).
        angles: (N, D / 2).

    Returns:
        (B, M, N, D), of the dtype of x.
    """
    even, odd = x.to(angles.dtype).unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)
