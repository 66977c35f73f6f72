"""Winograd's convolution: 3x3 kernels with 16 instead of 36 multiplications per 2x2 outputs.

Shapes: B batch, C input and D output channels, T frames, K frames of the kernel, H, W positions; p, q rows and columns of
2x2 tiles.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

_MAX_ELEMENTS = 2**20
"""Transformed numbers that are computed at a time (4 MiB in float32), so that they stay in the cache of a CPU."""

_FILTER_TRANSFORM = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
"""G of F(2, 3), from 3 taps to 4 products (arXiv 1509.09308, section 4.1)."""


def winograd_conv(frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with a kernel of K x 3 x 3, without padding, by F(2x2, 3x3) of Lavin and Gray (arXiv 1509.09308, eq. 8).

        y = A^T [ sum over channels and taps in time of (G g G^T) * (B^T d B) ] A

    where d are overlapping tiles of 4x4 inputs, g the kernels and y tiles of 2x2 outputs. The sums are matrix products.

    Args:
        frames: (B, T + K - 1, H + 2, W + 2, C), float32 or float64.
        weight: (D, C, K, 3, 3).
        bias: (D,), or None.

    Returns:
        (B, T, H, W, D).
    """
    taps, (height, width) = weight.shape[2], (frames.shape[2] - 2, frames.shape[3] - 2)
    frames = F.pad(frames, (0, 0, 0, width % 2, 0, height % 2))
    filters = _transform_filters(weight)
    steps, rows, columns = frames.shape[1] - taps + 1, (height + 1) // 2, (width + 1) // 2
    y = frames.new_empty(len(frames), steps, rows, 2, columns, 2, len(weight))
    for sample, result in zip(frames, y, strict=True):
        for time, tiles in _blocks(steps, rows, 16 * columns * max(weight.shape[:2])):
            inputs = sample[time.start : time.stop + taps - 1, 2 * tiles.start : 2 * tiles.stop + 2]
            _convolve_block(inputs, filters, bias, result[time, tiles])
    return y.flatten(4, 5).flatten(2, 3)[:, :, :height, :width]


def _blocks(steps: int, rows: int, row_elements: int) -> Iterator[tuple[slice, slice]]:
    """Yield the frames and the rows of tiles of blocks of at most `_MAX_ELEMENTS` transformed numbers, if possible."""
    band = min(rows, max(1, _MAX_ELEMENTS // row_elements))
    count = max(1, _MAX_ELEMENTS // (row_elements * band))
    for step in range(0, steps, count):
        for row in range(0, rows, band):
            yield slice(step, min(step + count, steps)), slice(row, min(row + band, rows))


def _transform_filters(weight: Tensor) -> Tensor:
    """Return G g G^T, (16, K, D, C)."""
    d, c, taps = weight.shape[:3]
    g = torch.tensor(_FILTER_TRANSFORM, dtype=weight.dtype)
    kernels = weight.flatten(3).permute(3, 2, 0, 1).reshape(9, -1)
    return (torch.kron(g, g) @ kernels).view(16, taps, d, c)


def _convolve_block(frames: Tensor, filters: Tensor, bias: Tensor | None, result: Tensor) -> None:
    """Write the convolution of frames (T + K - 1, 2 p + 2, 2 q + 2, C) to `result` (T, p, 2, q, 2, D)."""
    steps, p, _, q, _, d = result.shape
    v = _transform_inputs(frames, p, q)  # (16, T + K - 1, p q, C)
    m = torch.bmm(v[:, :steps].flatten(1, 2), filters[:, 0].mT)
    for tap in range(1, filters.shape[1]):
        m.baddbmm_(v[:, tap : tap + steps].flatten(1, 2), filters[:, tap].mT)
    m = m.view(4, 4, steps, p, q, d)
    for i, row in enumerate(_output_sums(m)):
        for j, y in enumerate(_output_sums(row)):
            result[:, :, i, :, j] = y if bias is None else y.add_(bias)


def _transform_inputs(frames: Tensor, p: int, q: int) -> Tensor:
    """Return B^T d B of all tiles, (16, T, p q, C)."""
    v = frames.new_empty(4, 4, len(frames), p, q, frames.shape[-1])
    a, b, c, d = (frames[:, i : i + 2 * p - 1 : 2] for i in range(4))
    for i, rows in enumerate((a - c, b + c, c - b, b - d)):
        e, f, g, h = (rows[:, :, j : j + 2 * q - 1 : 2] for j in range(4))
        torch.sub(e, g, out=v[i, 0])
        torch.add(f, g, out=v[i, 1])
        torch.sub(g, f, out=v[i, 2])
        torch.sub(f, h, out=v[i, 3])
    return v.flatten(0, 1).flatten(2, 3)


def _output_sums(m: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two rows of A^T m, for m (4, ...)."""
    return (m[1] + m[2]).add_(m[0]), (m[1] - m[2]).sub_(m[3])
