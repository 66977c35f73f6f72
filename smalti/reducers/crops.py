"""Crops of a multi-resolution encode: the tokens of a coarse view, and those of a finer one inside a box.

AdaptVision answers from a coarse view and asks for a box of a finer one if needed. Here, an image is encoded
at several resolutions once, and a box selects tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid, Reduced, Reducer, check_tokens, compact, gather_tokens, invert

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels; right and bottom are not part of the box."""


def box_to_tokens(box: Box, image_size: Grid, grid: Grid) -> Tensor:
    """Return the tokens whose cells share pixels with a box.

    Position (i, j) of a grid h x w owns the cell [j W / w, (j + 1) W / w) x [i H / h, (i + 1) H / h) of the image. The
    result is exact: it is computed with integers.

    Args:
        box: (left, top, right, bottom) in pixels. Parts outside of the image are ignored.
        image_size: (width, height) of the image in pixels.
        grid: (height, width) of the grid of tokens.

    Returns:
        (K,) int64 positions in raster order.

    Raises:
        SmaltiError: the box is empty or outside of the image.
    """
    left, top, right, bottom = (int(x) for x in box)
    width, height = image_size
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if left >= right or top >= bottom:
        raise SmaltiError(
            f"The box {tuple(box)} has no pixels of an image of {width} x {height}: pass (left, top, right, bottom)."
        )
    rows, columns = (_span(*span) for span in ((top, bottom, height, grid[0]), (left, right, width, grid[1])))
    return (torch.tensor(rows)[:, None] * grid[1] + torch.tensor(columns)).flatten()


def _span(start: int, end: int, size: int, cells: int) -> range:
    """Return the cells i with [i * size / cells, (i + 1) * size / cells) that intersect [start, end)."""
    return range(start * cells // size, -(-end * cells // size))


def box_to_levels(box: Box, image_size: Grid, grids: Sequence[Grid]) -> list[Tensor]:
    """Return the tokens of a box at each resolution, as indices of the concatenated tokens of all resolutions."""
    indices, offset = [], 0
    for grid in grids:
        indices.append(box_to_tokens(box, image_size, grid) + offset)
        offset += grid[0] * grid[1]
    return indices


class CropTokens(Reducer):
    """All tokens of a coarse grid, then the tokens of a finer grid inside a box.

    Args:
        coarse: (height, width) of the coarse grid; its tokens come first in `tokens`.
    """

    kind = "select"
    needs = ("boxes", "image_sizes")
    fixed_length = False

    def __init__(self, coarse: Grid) -> None:
        super().__init__()
        self.coarse = (int(coarse[0]), int(coarse[1]))

    def reduce(
        self,
        tokens: Tensor,
        grid: Grid,
        *,
        saliency: Tensor | None = None,
        keys: Tensor | None = None,
        boxes: Sequence[Box | None] | None = None,
        image_sizes: Sequence[Grid] | None = None,
    ) -> Reduced:
        """Return the selected tokens of each sample.

        Args:
            tokens: (B, coarse + fine, C): the tokens of the coarse grid, then those of the fine grid.
            grid: (height, width) of the fine grid.
            saliency: not used.
            keys: not used.
            boxes: one box per image in pixels, None to answer from the coarse tokens alone.
            image_sizes: (width, height) of each image in pixels.
        """
        first = self.coarse[0] * self.coarse[1]
        check_tokens(tokens[:, first:], grid)
        if boxes is None or image_sizes is None or not len(boxes) == len(image_sizes) == len(tokens):
            raise SmaltiError("CropTokens needs a box or None, and a size, for each image: pass boxes and image_sizes.")
        valid = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        valid[:, :first] = True
        for row, box, size in zip(valid, boxes, image_sizes, strict=True):
            if box is not None:
                row[first + box_to_tokens(box, size, grid).to(row.device)] = True
        indices, lengths = compact(valid)
        return Reduced(gather_tokens(tokens, indices), lengths, invert(indices, tokens.shape[1]), indices)
