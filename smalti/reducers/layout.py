"""Stitching the token maps of crops, tiles or slices to one map, and cutting it again."""

from __future__ import annotations

from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid


def stitch(tokens: Tensor, tiles: Grid, grid: Grid) -> Tensor:
    """Return the tokens of tiles as one map.

    Args:
        tokens: (B, rows * columns, H * W, C): tiles in raster order, raster order inside.
        tiles: (rows, columns) of tiles.
        grid: (H, W) of each tile.

    Returns:
        (B, rows * H * columns * W, C) in raster order of the whole map.

    Raises:
        SmaltiError: the numbers do not fit.
    """
    rows, columns = tiles
    height, width = grid
    if tokens.ndim != 4 or tokens.shape[1:3] != (rows * columns, height * width):
        raise SmaltiError(
            f"{rows} x {columns} tiles of {height} x {width} tokens do not fit the shape {tuple(tokens.shape)}: pass "
            "(B, tiles, tokens per tile, C)."
        )
    maps = tokens.reshape(-1, rows, columns, height, width, tokens.shape[3])
    return maps.transpose(2, 3).reshape(tokens.shape[0], -1, tokens.shape[3])


def cut(tokens: Tensor, tiles: Grid, grid: Grid) -> Tensor:
    """Return one map as tiles: the inverse of `stitch`."""
    rows, columns = tiles
    height, width = grid
    if tokens.ndim != 3 or tokens.shape[1] != rows * columns * height * width:
        raise SmaltiError(
            f"{rows} x {columns} tiles of {height} x {width} tokens do not fit the shape {tuple(tokens.shape)}: pass "
            "(B, N, C) of the whole map."
        )
    maps = tokens.reshape(-1, rows, height, columns, width, tokens.shape[2])
    return maps.transpose(2, 3).reshape(tokens.shape[0], rows * columns, height * width, tokens.shape[2])
