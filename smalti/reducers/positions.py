"""Sine-cosine tables of two-dimensional positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid


def sincos_table(dim: int, side: int, like: Tensor) -> Tensor:
    """Return the table of a square grid.

    The first half of the channels encodes the column, the second half the row. Each half is [sin(p f), cos(p f)] with
    frequencies f_i = 10000^(-i / (dim / 4)).

    Args:
        dim: number of channels, a multiple of 4.
        side: height and width of the grid.
        like: a tensor with the device and the type of the result.

    Returns:
        (side^2, dim) in raster order.

    Raises:
        SmaltiError: `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise SmaltiError(f"A sine-cosine table cannot have {dim} channels: choose a multiple of 4.")
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat((angles.sin(), angles.cos()), 1)
    columns, rows = axis.expand(side, -1, -1), axis[:, None].expand(-1, side, -1)
    return torch.cat((columns, rows), 2).flatten(0, 1).to(like)


def resize_table(table: Tensor, side: int, grid: Grid) -> Tensor:
    """Resize a table (side^2, D) bicubically to (H * W, D), in float32 or better; the same grid is not resized."""
    if grid == (side, side):
        return table
    maps = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if maps.dtype in (torch.float16, torch.bfloat16):
        maps = maps.float()
    resized = F.interpolate(maps, grid, mode="bicubic", align_corners=False)
    return resized[0].flatten(1).t().to(table.dtype)
