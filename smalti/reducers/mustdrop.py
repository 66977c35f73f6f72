"""MustDrop's encode stage: merge uniform windows, and choose key tokens (arXiv 2411.10803).

The prefill and decode stages prune tokens inside the language model and are not here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid, Reduced, Reducer, check_tokens, compact, gather_tokens
from smalti.reducers.m3 import assign_windows


class LocalMerge(Reducer):
    """Replace windows of similar tokens by their means.

    A window is merged if the mean cosine of its pairs is at least the threshold. Output: merged windows by descending
    similarity, then the other tokens in raster order. The published code merges as many windows in every sample as in the
    sample that has the fewest; here, each sample merges its own.

    Args:
        window: height and width of a window.
        threshold: mean cosine from which a window is merged.
        upstream: whether to merge the same number of windows in all samples of a batch, the minimum.
    """

    kind = "merge"
    fixed_length = False

    def __init__(self, window: int = 3, threshold: float = 0.8, upstream: bool = False) -> None:
        super().__init__()
        if window < 2:
            raise SmaltiError(f"window is {window}: choose at least 2, so that there is something to merge.")
        self.window, self.threshold, self.upstream = window, threshold, upstream

    def similarity(self, tokens: Tensor, grid: Grid, keys: Tensor | None = None) -> Tensor:
        """Return (B, windows), the mean cosine over pairs of different tokens of each window, in raster order."""
        unit = self._windows(F.normalize(tokens if keys is None else keys, dim=-1, eps=1e-8), grid)
        size = self.window**2
        pairs = unit.sum(2).square().sum(-1) - unit.square().sum((2, 3))
        return pairs / (size * (size - 1))

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, M, C), where `sizes` counts the tokens in each output token."""
        check_tokens(tokens, grid)
        if grid[0] % self.window or grid[1] % self.window:
            raise SmaltiError(
                f"A grid of {grid[0]} x {grid[1]} is not a multiple of the window of {self.window}: choose a window that "
                "divides height and width."
            )
        similarity = self.similarity(tokens, grid, keys)
        merged = (similarity >= self.threshold).sum(1)
        if self.upstream:
            merged = merged.min().expand_as(merged)
        order = similarity.argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1)
        window_of = assign_windows(grid, self.window).to(tokens.device).expand(tokens.shape[:2])
        rank_of = rank.gather(1, window_of)
        untouched = rank_of >= merged[:, None]
        is_merged = torch.arange(rank.shape[1], device=tokens.device) < merged[:, None]
        places, lengths = compact(torch.cat((is_merged, untouched), 1))
        # Only windows that any sample merges are averaged, and only tokens that any sample keeps are copied.
        count = int(merged.max()) if len(merged) else 0
        members = _members(grid, self.window).to(tokens.device)[order[:, :count]]
        means = gather_tokens(tokens, members.flatten(1)).unflatten(1, (count, self.window**2)).mean(2)
        position = torch.where(places >= rank.shape[1], places - rank.shape[1], -1)
        out = gather_tokens(tokens, position)
        out[:, :count] += means * is_merged[:, :count, None]
        sizes = torch.where(places < rank.shape[1], self.window**2, 1).masked_fill(places < 0, 0).to(tokens.dtype)
        assignment = torch.where(untouched, merged[:, None] + untouched.cumsum(1) - 1, rank_of)
        return Reduced(out, lengths, assignment, position, sizes)

    def _windows(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Return (B, windows, window^2, C)."""
        w = self.window
        maps = tokens.reshape(tokens.shape[0], grid[0] // w, w, grid[1] // w, w, tokens.shape[2])
        return maps.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _members(grid: Grid, window: int) -> Tensor:
    """Return (windows, window^2), the positions of each window in raster order."""
    index = torch.arange(grid[0] * grid[1]).reshape(grid[0] // window, window, grid[1] // window, window)
    return index.transpose(1, 2).reshape(-1, window**2)


def select_key_tokens(attention: Tensor, rate: float = 0.08, lengths: Tensor | None = None) -> Tensor:
    """Return the tokens that the language model must not drop: those to which the class token attends most.

    Args:
        attention: (B, heads, 1 + M) softmax attention of the class token of the last layer, class token first.
        rate: fraction of the M tokens, rounded up.
        lengths: (B,) number of tokens of each sample without the class token; None if there is no padding.

    Returns:
        (B, K) indices without the class token, by descending attention; -1 for padding.
    """
    scores = attention.mean(1)[:, 1:]
    total = scores.shape[1]
    if lengths is None:
        count = math.ceil(rate * total)
        return scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    counts = torch.tensor([math.ceil(rate * int(length)) for length in lengths], device=scores.device)
    scores = scores.masked_fill(torch.arange(total, device=scores.device) >= lengths[:, None], float("-inf"))
    order = scores.argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
    return order.masked_fill(torch.arange(order.shape[1], device=order.device) >= counts[:, None], -1)
