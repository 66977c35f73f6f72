"""ProxyV: proxy tokens from downsampled crops, or from learned queries (arXiv 2505.15816).

The published method also runs the proxies through layers of the language model, which then update all tokens. Only the
reducers are here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid, Reduced, Reducer, check_tokens, full_lengths, same_for_all


class ProxyPool(Reducer):
    """Bilinear resize of each crop by a factor, without antialiasing.

    This is no average pooling: an odd factor takes the center token alone, 4 the mean of the central 2 x 2 tokens of each
    4 x 4. If the factor does not divide the grid, the step is h / (h // factor), and nothing is dropped.

    Args:
        factor: factor by which height and width shrink.
        crops: number of crops per sample, one after the other in `tokens`.
    """

    kind = "pool"

    def __init__(self, factor: int = 4, crops: int = 1) -> None:
        super().__init__()
        self.factor, self.crops = factor, crops

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, crops * (H // factor) * (W // factor), C) in raster order, crop by crop.

        Args:
            tokens: (B, crops * H * W, C).
            grid: (height, width) of one crop.
            saliency: not used.
            keys: not used.
        """
        check_tokens(tokens, grid, self.crops)
        small = (grid[0] // self.factor, grid[1] // self.factor) if self.factor > 0 else (0, 0)
        if 0 in small:
            raise SmaltiError(
                f"A grid of {grid[0]} x {grid[1]} cannot shrink by {self.factor}: choose a factor from 1 to {min(grid)}."
            )
        batch = tokens.shape[0]
        maps = tokens.reshape(batch * self.crops, -1, tokens.shape[2]).transpose(1, 2).unflatten(2, grid)
        resized = F.interpolate(maps, small, mode="bilinear", align_corners=False)
        out = resized.flatten(2).transpose(1, 2).reshape(batch, -1, tokens.shape[2])
        cells = assign_cells(grid, small)
        index = torch.cat([cells + crop * small[0] * small[1] for crop in range(self.crops)])
        return Reduced(out, full_lengths(out), same_for_all(index, tokens))


class ProxyInitializer(Reducer):
    """Learned proxies for encoders without a grid: each is a softmax-weighted mean of a crop's tokens.

    logits = q Wk(x) / sqrt(dim). The tokens themselves are the values.

    Args:
        channels: C.
        dim: width of queries and keys.
        proxies: number of proxies per crop.
        crops: number of crops per sample.
    """

    kind = "queries"
    learned = True

    def __init__(self, channels: int, dim: int, proxies: int, crops: int = 1) -> None:
        super().__init__()
        self.crops = crops
        self.key = nn.Linear(channels, dim, bias=False)
        self.queries = nn.Parameter(torch.randn(proxies, dim) / math.sqrt(dim))

    def _logits(self, tokens: Tensor) -> Tensor:
        """Return (B * crops, proxies, N) for (B, crops * N, C)."""
        keys = self.key(tokens.reshape(tokens.shape[0] * self.crops, -1, tokens.shape[2]))
        return self.queries @ keys.transpose(1, 2) / math.sqrt(self.queries.shape[1])

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, crops * proxies, C). Each token is assigned to the proxy with the largest logit."""
        check_tokens(tokens, grid, self.crops)
        logits = self._logits(tokens)
        crops = tokens.reshape(logits.shape[0], -1, tokens.shape[2])
        out = (logits.softmax(-1) @ crops).reshape(tokens.shape[0], -1, tokens.shape[2])
        proxies = self.queries.shape[0]
        offset = torch.arange(self.crops, device=tokens.device)[:, None] * proxies
        assignment = (logits.argmax(1).unflatten(0, (-1, self.crops)) + offset).flatten(1)
        return Reduced(out, full_lengths(out), assignment)

    def full_to_proxy(self, tokens: Tensor) -> Tensor:
        """Return (B * crops, N, proxies), the softmax over proxies that carries them back to the tokens."""
        return self._logits(tokens).transpose(1, 2).softmax(-1)


def assign_cells(grid: Grid, small: Grid) -> Tensor:
    """Return (N,), the raster index of the cell of a smaller grid that contains the center of each position."""
    rows, columns = (
        (2 * torch.arange(size) + 1) * cells // (2 * size) for size, cells in zip(grid, small, strict=True)
    )
    return (rows[:, None] * small[1] + columns).flatten()
