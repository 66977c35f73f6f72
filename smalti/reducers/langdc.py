"""LangDC's adaptive pooling (arXiv 2509.00969). Its caption tokens need the language model and are not here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid, Reduced, Reducer, check_tokens, full_lengths, same_for_all
from smalti.reducers.proxyv import assign_cells

FRAME_SHAPE = (12, 12)
"""Shape to which the published model pools frames of the image encoder, from 24 x 24."""
CLIP_SHAPE = (8, 8)
"""Shape to which the published model pools time steps of the video encoder, from 16 x 16."""


class AdaptivePool(Reducer):
    """Average pooling to a fixed shape: bin i covers floor(i h / a) to ceil((i + 1) h / a).

    Bins overlap if the shape does not divide the grid.

    Args:
        shape: (height, width) of the output.
        upstream: whether to repeat values if the shape is larger than the grid, as the published code does, instead of
            raising an error.
    """

    kind = "pool"

    def __init__(self, shape: Grid, upstream: bool = False) -> None:
        super().__init__()
        self.shape, self.upstream = (int(shape[0]), int(shape[1])), upstream

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, a * b, C) in raster order."""
        check_tokens(tokens, grid)
        height, width = self.shape
        if not self.upstream and (height > grid[0] or width > grid[1]):
            raise SmaltiError(
                f"A grid of {grid[0]} x {grid[1]} cannot be pooled to {height} x {width}, which is larger: choose a "
                "smaller shape."
            )
        maps = tokens.transpose(1, 2).unflatten(2, grid)
        pooled = F.adaptive_avg_pool2d(maps, self.shape).flatten(2).transpose(1, 2)
        return Reduced(pooled, full_lengths(pooled), same_for_all(assign_cells(grid, self.shape), tokens))


def join_frames_and_clips(frames: Tensor, clips: Tensor) -> Tensor:
    """Return LangDC's sequence of a video: the tokens of all frames, then the tokens of all clips.

    Args:
        frames: (B, T, M, C) reduced tokens of the image encoder.
        clips: (B, S, K, C) reduced tokens of the video encoder.

    Returns:
        (B, T * M + S * K, C).
    """
    return torch.cat((frames.flatten(1, 2), clips.flatten(1, 2)), dim=1)
