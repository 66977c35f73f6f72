"""M3: nested average pooling (Matryoshka multimodal models, arXiv 2405.17430)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid, Reduced, Reducer, check_tokens, full_lengths, same_for_all


class M3(Reducer):
    """Average pooling to one of several nested scales.

    The kernel is int(sqrt(H * W / scale)), which is also the stride. The published code pools silently to another number of
    tokens if the scale does not fit the grid, and drops rows and columns if the kernel does not divide it. Both are errors
    here.

    Args:
        scale: number of tokens: H * W / k^2 for a k that divides height and width.
        upstream: whether to accept any scale up to H * W, as the published code does.
    """

    kind = "pool"

    def __init__(self, scale: int, upstream: bool = False) -> None:
        super().__init__()
        self.scale, self.upstream = scale, upstream

    def kernel(self, grid: Grid) -> int:
        """Return the size of the windows.

        Raises:
            SmaltiError: the scale does not fit the grid.
        """
        height, width = grid
        kernel = int(math.sqrt(height * width / self.scale)) if 0 < self.scale <= height * width else 0
        exact = kernel > 0 and height % kernel == width % kernel == 0 and height * width == self.scale * kernel**2
        if kernel == 0 or not (exact or self.upstream):
            scales = ", ".join(map(str, available_scales(grid)))
            raise SmaltiError(
                f"A grid of {height} x {width} has no scale of {self.scale} tokens: choose from {scales}."
            )
        return kernel

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, (H // k) * (W // k), C), the means of windows in raster order."""
        check_tokens(tokens, grid)
        kernel = self.kernel(grid)
        pooled = F.avg_pool2d(tokens.transpose(1, 2).unflatten(2, grid), kernel).flatten(2).transpose(1, 2)
        return Reduced(pooled, full_lengths(pooled), same_for_all(assign_windows(grid, kernel), tokens))


def available_scales(grid: Grid) -> list[int]:
    """Return the numbers of tokens to which a grid can be pooled exactly, the largest first."""
    height, width = grid
    kernels = (k for k in range(1, min(height, width) + 1) if height % k == width % k == 0)
    return [height * width // k**2 for k in kernels]


def assign_windows(grid: Grid, window: int) -> Tensor:
    """Return (N,), the raster index of each position's window; -1 in rows and columns that fill no window."""
    height, width = grid
    rows, columns = torch.arange(height) // window, torch.arange(width) // window
    index = rows[:, None] * (width // window) + columns
    dropped = (rows[:, None] >= height // window) | (columns >= width // window)
    return index.masked_fill(dropped, -1).flatten()


def matryoshka_loss(
    loss: Callable[[Reduced], Tensor], tokens: Tensor, grid: Grid, scales: Sequence[int], *, upstream: bool = False
) -> Tensor:
    """Return the training loss of M3: the mean over scales of the loss of a language model that sees this scale.

    Args:
        loss: the loss of a model for reduced tokens, a scalar.
        tokens: (B, N, C).
        grid: (height, width) of the grid.
        scales: numbers of tokens, such as 576, 144, 36, 9, 1 for 24 x 24.
        upstream: see `M3`.
    """
    return torch.stack([loss(M3(scale, upstream).reduce(tokens, grid)) for scale in scales]).mean()
