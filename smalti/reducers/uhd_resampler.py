"""LLaVA-UHD's spatially constrained resampler: each query reads its own cell of the grid (ECCV 2024, 2403.11703)."""

from __future__ import annotations

import math
import struct
from functools import lru_cache

import torch
from torch import Tensor, nn

from smalti.reducers.base import Grid, Reduced, Reducer, check_tokens, full_lengths, same_for_all
from smalti.reducers.positions import resize_table, sincos_table
from smalti.reducers.proxyv import assign_cells

POOLINGS = ((4, 2), (3, 2), (4, 3), (3, 3), (2, 4), (2, 3), (3, 4))
"""(width, height) of the samples of a cell; the one closest to the aspect ratio of the grid is used."""

_EPS = 1e-6


class SpatialResampler(Reducer):
    """g x g queries, each of which attends to samples of its own cell of the grid, for grids of any aspect ratio.

    v = LN(Linear(x)). Keys are RoIAlign samples of v plus positions, values are samples of v, and the result is
    LN(attention) times a matrix.

    Args:
        channels: C of the tokens.
        dim: D of the output.
        side: g, 12 in the published model.
        heads: number of heads; None for D // 128, at least 1.
    """

    kind = "queries"
    learned = True

    def __init__(self, channels: int, dim: int, side: int = 12, heads: int | None = None) -> None:
        super().__init__()
        self.side, self.dim = side, dim
        self.query = nn.Parameter(torch.randn(side**2, dim) * 0.02)
        self.kv_proj = nn.Linear(channels, dim, bias=False)
        self.attn = nn.MultiheadAttention(dim, heads or max(dim // 128, 1), batch_first=True)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(dim, eps=_EPS) for _ in range(3))
        self.proj = nn.Parameter(torch.randn(dim, dim) / math.sqrt(dim))

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, g^2, D) in raster order. Each position is assigned to the query whose cell has its center."""
        check_tokens(tokens, grid)
        value = self.ln_kv(self.kv_proj(tokens))
        table = sincos_table(value.shape[2], self.side, value)
        key = value + resize_table(table, self.side, grid)
        rows, columns = cell_samplers(self.side, grid, value)
        # One row per query: (B * g^2, samples, D).
        key, value = (sample_cells(x, grid, rows, columns).flatten(0, 1) for x in (key, value))
        query = (self.ln_q(self.query) + table).repeat(len(tokens), 1)[:, None]
        read, _ = self.attn(query, key, value, need_weights=False)
        out = self.ln_post(read.reshape(len(tokens), self.side**2, -1)) @ self.proj
        return Reduced(out, full_lengths(out), same_for_all(assign_cells(grid, (self.side, self.side)), tokens))


def cell_boxes(side: int, grid: Grid) -> Tensor:
    """Return (side^2, 4) float32: x1, y1, x2, y2 of each query's cell in units of positions, in raster order."""
    height, width = grid
    return torch.tensor(
        [
            [j * width / side, i * height / side, (j + 1) * width / side, (i + 1) * height / side]
            for i in range(side)
            for j in range(side)
        ],
        dtype=torch.float32,
    )


def pooling_size(grid: Grid) -> Grid:
    """Return (height, width) of the samples per cell: the aspect ratio closest to the grid's, the first of equal ones."""
    target = math.log(grid[1] / grid[0])
    width, height = min(POOLINGS, key=lambda size: abs(target - math.log(size[0] / size[1])))
    return height, width


def cell_samplers(side: int, grid: Grid, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrices with which RoIAlign samples the rows and the columns of all cells.

    RoIAlign (aligned=False, as many samples per bin as it has positions, rounded up) is bilinear, and therefore separable:
    a cell of the grid is R x C^T for a matrix R of its rows and C of its columns.

    Returns:
        (side, pooled height, H) and (side, pooled width, W).
    """
    pooled = pooling_size(grid)
    rows, columns = (
        torch.tensor(_samplers(side, bins, size), dtype=like.dtype, device=like.device)
        for bins, size in zip(pooled, grid, strict=True)
    )
    return rows, columns


def sample_cells(tokens: Tensor, grid: Grid, rows: Tensor, columns: Tensor) -> Tensor:
    """Return (B, side^2, samples, D): the samples of every cell of tokens (B, N, D)."""
    maps = tokens.unflatten(1, grid)
    cells = torch.einsum("iay,byxd,jcx->bijacd", rows, maps, columns)
    return cells.flatten(3, 4).flatten(1, 2)


@lru_cache(maxsize=256)
def _samplers(cells: int, bins: int, size: int) -> list[list[list[float]]]:
    """Return (cells, bins, size), the weights of positions along one axis.

    Coordinates are rounded to float32 where RoIAlign rounds them, because they decide the number of samples. The result
    is a list and no tensor: tensors that are made while a graph is exported must not be kept.
    """
    weights = [[[0.0] * size for _ in range(bins)] for _ in range(cells)]
    for cell in range(cells):
        start = _float32(cell * size / cells)
        extent = max(_float32(_float32((cell + 1) * size / cells) - start), 1.0)
        step = _float32(extent / bins)
        samples = math.ceil(step)
        for place in range(bins):
            for sample in range(samples):
                offset = _float32(_float32((sample + 0.5) * step) / samples)
                point = _float32(_float32(start + _float32(place * step)) + offset)
                if not -1 <= point <= size:
                    continue
                point = min(max(point, 0.0), size - 1.0)
                low = int(point)
                weights[cell][place][low] += (1 - (point - low)) / samples
                if low + 1 < size:
                    weights[cell][place][low + 1] += (point - low) / samples
    return weights


def _float32(value: float) -> float:
    """Return a number rounded to float32."""
    return struct.unpack("f", struct.pack("f", value))[0]
