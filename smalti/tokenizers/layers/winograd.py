"""Winograd's convolution: 3x3 kernels with 16 instead of 36 multiplications per 2x2 outputs.

Shapes: B batch, C input and D output channels, T frames, K frames of the kernel, H, W positions; p, q rows and columns of
2x2 tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_MAX_ELEMENTS = 2**21
"""Transformed numbers that are computed at a time (8 MiB in float32), so that they stay in the cache of a CPU."""

_FILTER_TRANSFORM = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
"""G of F(2, 3), from 3 taps to 4 products (arXiv 1509.09308, section 4.1)."""


def winograd_conv(frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with a kernel of K x 3 x 3, without padding, by F(2x2, 3x3) of Lavin and Gray (arXiv 1509.09308, eq. 8).

        y = A^T [ sum over channels and taps in time of (G g G^T) * (B^T d B) ] A

    where d are overlapping tiles of 4x4 inputs, g the kernels and y tiles of 2x2 outputs. The sums are convolutions in
    time.

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
    """Return G g G^T, (4, 4, D, C, K, 1), with channels last in memory."""
    d, c, taps = weight.shape[:3]
    g = torch.tensor(_FILTER_TRANSFORM, dtype=weight.dtype)
    kernels = weight.flatten(3).permute(3, 0, 2, 1).reshape(9, -1)
    return (torch.kron(g, g) @ kernels).view(4, 4, d, taps, 1, c).movedim(-1, 3)


def _convolve_block(frames: Tensor, filters: Tensor, bias: Tensor | None, result: Tensor) -> None:
    """Write the convolution of frames (T + K - 1, 2 p + 2, 2 q + 2, C) to `result` (T, p, 2, q, 2, D)."""
    p, q = result.shape[1], result.shape[3]
    columns: list[list[Tensor]] = [[], []]
    for rows, kernels in zip(_transform_inputs(_tile_rows(frames, 1, p)), filters, strict=True):
        products = [_sum_taps(v, g) for v, g in zip(_transform_inputs(_tile_rows(rows, 2, q)), kernels, strict=True)]
        for column, y in zip(columns, _transform_outputs(products), strict=True):
            column.append(y)
    for j, column in enumerate(columns):
        for i, y in enumerate(_transform_outputs(column)):
            result[:, :, i, :, j] = y if bias is None else y.add_(bias)


def _tile_rows(x: Tensor, dim: int, tiles: int) -> list[Tensor]:
    """Return the first, second, third and fourth row (or column) of all tiles."""
    return [x[(slice(None),) * dim + (slice(i, i + 2 * tiles - 1, 2),)] for i in range(4)]


def _sum_taps(v: Tensor, filters: Tensor) -> Tensor:
    """Return the sums over channels and taps in time of v (T + K - 1, p, q, C) and filters (D, C, K, 1), (T, p, q, D)."""
    x = v.flatten(1, 2).movedim(2, 0).unsqueeze(0)  # (1, C, T + K - 1, p q): oneDNN is fast for long rows
    if x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        # MKL's matrix products take twice as long on CPUs of AMD, and need one call per tap.
        y = torch.mkldnn_convolution(x, filters, None, (0, 0), (1, 1), (1, 1), 1)
    else:
        y = F.conv2d(x, filters)
    return y.squeeze(0).movedim(0, 2).unflatten(1, v.shape[1:3])


def _transform_inputs(d: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the four rows of B^T d."""
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def _transform_outputs(m: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the two rows of A^T m."""
    return (m[1] + m[2]).add_(m[0]), (m[1] - m[2]).sub_(m[3])
