"""LLaVA-UHD's slicing: cutting an image of any aspect ratio into slices near the resolution of the encoder.

Source: ECCV 2024, arXiv 2403.11703. Sizes are (width, height) in pixels here, as in Pillow, and grids (columns, rows).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid

COMMA, NEWLINE = 29892, 13
"""Token ids of LLaMA's tokenizer that follow a slice inside a row, and the last slice of a row."""

_BICUBIC = 3
"""Pillow's Resampling.BICUBIC."""


@dataclass(frozen=True)
class SlicePlan:
    """How an image is sliced. All sizes are (width, height).

    Attributes:
        grid: (columns, rows) of slices; None if the image is not sliced.
        thumbnail_size: size of the view of the whole image.
        refine_size: size to which the image is resized before it is cut; None without slices.
        slice_size: size of each slice; None without slices.
    """

    grid: tuple[int, int] | None
    thumbnail_size: tuple[int, int]
    refine_size: tuple[int, int] | None = None
    slice_size: tuple[int, int] | None = None

    @property
    def slices(self) -> int:
        """Number of slices."""
        return 0 if self.grid is None else self.grid[0] * self.grid[1]

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Return (left, top, right, bottom) of each slice in the refined image, in raster order."""
        if self.grid is None or self.slice_size is None:
            return []
        width, height = self.slice_size
        columns, rows = self.grid
        return [(x * width, y * height, (x + 1) * width, (y + 1) * height) for y in range(rows) for x in range(columns)]

    def separators(self) -> list[int]:
        """Return the token id after each slice in raster order. The thumbnail follows, without a separator."""
        if self.grid is None:
            return []
        columns, rows = self.grid
        return ([COMMA] * (columns - 1) + [NEWLINE]) * rows


def plan_slices(size: Grid, resolution: int = 336, max_slices: int = 7, patch: int = 14) -> SlicePlan:
    """Choose how to slice an image.

    Args:
        size: (width, height) of the image.
        resolution: S: a slice has about S^2 pixels.
        max_slices: maximum number of slices.
        patch: sizes are multiples of this.

    Raises:
        SmaltiError: the image is empty.
    """
    width, height = size
    if width < 1 or height < 1:
        raise SmaltiError(f"An image of {width} x {height} pixels cannot be sliced: pass (width, height) of an image.")
    wanted = min(math.ceil(width * height / resolution**2), max_slices)
    if wanted <= 1:
        return SlicePlan(None, _fit(size, resolution, patch, enlarge=True))
    ratio = math.log(width / height)
    counts = [n for n in (wanted - 1, wanted, wanted + 1) if n != 1 and n <= max_slices]
    grids = [(x, n // x) for n in counts for x in range(1, n + 1) if n % x == 0]
    columns, rows = min(grids, key=lambda grid: abs(ratio - math.log(grid[0] / grid[1])))
    part = (_round_down(width, columns) / columns, _round_down(height, rows) / rows)
    slice_size = _fit(part, resolution, patch, enlarge=True)
    return SlicePlan(
        (columns, rows),
        _fit(size, resolution, patch, enlarge=False),
        (slice_size[0] * columns, slice_size[1] * rows),
        slice_size,
    )


def _fit(size: tuple[float, float], resolution: int, patch: int, *, enlarge: bool) -> tuple[int, int]:
    """Return a size of about resolution^2 pixels with the same aspect ratio, in multiples of the patch."""
    width, height = size
    if width * height > resolution**2 or enlarge:
        ratio = width / height
        height = int(resolution / math.sqrt(ratio))
        width = int(height * ratio)
    return _round_down(width, patch), _round_down(height, patch)


def _round_down(length: float, unit: int) -> int:
    """Return the multiple of a unit below a length, at least one unit."""
    return max(int(length) // unit * unit, unit)


def evaluation_size(size: Grid, longest: int = 1024) -> tuple[int, int]:
    """Return the size to which the published evaluation resizes an image first: its longer side becomes `longest`."""
    width, height = size
    if width >= height:
        return longest, int(height * longest / width)
    return int(width * longest / height), longest


def slice_image(image: Any, plan: SlicePlan) -> tuple[Any, list[Any]]:
    """Cut an image.

    Args:
        image: a PIL image.
        plan: the plan for its size.

    Returns:
        The thumbnail, and the slices in raster order, as PIL images.
    """
    thumbnail = _resize(image, plan.thumbnail_size)
    if plan.refine_size is None:
        return thumbnail, []
    refined = _resize(image, plan.refine_size)
    return thumbnail, [refined.crop(box) for box in plan.boxes()]


def _resize(image: Any, size: tuple[int, int]) -> Any:
    """Resize bicubically, one axis at a time: Pillow 13 changed which axis is first, and values are rounded in between.

    As in Pillow 13, the height is first if it shrinks by more than twice as many pixels as the width.
    """
    width, height = image.size
    shrinkage = height - size[1]
    height_first = shrinkage > 0 and shrinkage > 2 * (width - size[0])
    between = (width, size[1]) if height_first else (size[0], height)
    return image.resize(between, _BICUBIC).resize(size, _BICUBIC)


def slice_sequence(slices: list[Tensor], thumbnail: Tensor, comma: Tensor, newline: Tensor, plan: SlicePlan) -> Tensor:
    """Return the sequence of an image: slices in raster order, each followed by its separator, then the thumbnail.

    Args:
        slices: one (M, C) per slice.
        thumbnail: (M, C).
        comma: (C,) embedding of the comma.
        newline: (C,) embedding of the newline.
        plan: the plan of the image.

    Raises:
        SmaltiError: the number of slices differs from the plan's.
    """
    if len(slices) != plan.slices:
        raise SmaltiError(f"The plan has {plan.slices} slices, but {len(slices)} were passed: pass those of this plan.")
    embedding = {COMMA: comma, NEWLINE: newline}
    parts = [p for s, id_ in zip(slices, plan.separators(), strict=True) for p in (s, embedding[id_][None])]
    return torch.cat([*parts, thumbnail])
