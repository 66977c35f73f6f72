"""The contract of all reducers: fewer tokens from a grid of tokens, and where each of them went.

Shapes: B batch; N = H * W positions of a grid in raster order (row by row); C channels; M output tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.configurable import Configurable

Grid = tuple[int, int]
"""(height, width) of a grid of tokens."""

Kind = Literal["pool", "fold", "select", "merge", "cluster", "queries"]


@dataclass(frozen=True)
class Reduced:
    """The tokens that a reducer gives to a language model.

    Attributes:
        tokens: (B, M, D) tokens, zero beyond the length of a sample.
        lengths: (B,) int64 number of tokens of each sample.
        assignment: (B, N) int64 output token that represents each input token, -1 where it was dropped; None if every
            output depends on every input.
        indices: (B, M) int64 input position of each output token, -1 for a token that has no single position and for
            padding; None if no output token has one.
        sizes: (B, M) total weight of the input tokens in each output token, 0 for padding; None if all weights of a token
            sum to 1 and nothing was counted.
    """

    tokens: Tensor
    lengths: Tensor
    assignment: Tensor | None = None
    indices: Tensor | None = None
    sizes: Tensor | None = None

    def mask(self) -> Tensor:
        """Return (B, M), True for tokens and False for padding."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]


torch.export.register_dataclass(Reduced)


class Reducer(Configurable):
    """Base class of reducers. Subclasses implement `reduce`, and may need more inputs by keyword.

    A sample's result does not depend on the other samples of its batch, unless `upstream=True` asks for what the published
    code does.

    Attributes:
        kind: what the reducer does to the tokens.
        needs: the optional inputs of `reduce` that this reducer requires.
        fixed_length: whether the number of output tokens depends on the grid only. Such reducers can be exported with
            torch.export.
        learned: whether the reducer has weights to train.
    """

    kind: ClassVar[Kind]
    needs: ClassVar[tuple[str, ...]] = ()
    fixed_length: ClassVar[bool] = True
    learned: ClassVar[bool] = False

    @abstractmethod
    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Reduce a batch of tokens.

        Args:
            tokens: (B, N, C) in raster order.
            grid: (height, width) of the grid.
            saliency: (B, N) importance of each token, for reducers that select or weight. See `smalti.reducers.saliency`.
            keys: (B, N, D) vectors that are compared instead of the tokens, such as the keys of an attention layer.

        Returns:
            The tokens, their number, and where each input token went.

        Raises:
            SmaltiError: the grid does not fit the tokens or the reducer, or a required input is missing.
        """

    def forward(self, tokens: Tensor, grid: Grid, **inputs: Any) -> Reduced:
        """Call `reduce`."""
        return self.reduce(tokens, grid, **inputs)

    def expand(self, reduced: Reduced, grid: Grid) -> Tensor:
        """Spread the tokens back over the grid, so that a decoder shows what was lost.

        Every position takes the token that represents it. A position that was dropped takes that of the nearest position
        that was not.

        Args:
            reduced: the result of `reduce`.
            grid: the grid that was reduced.

        Returns:
            (B, N, D) tokens in raster order.

        Raises:
            SmaltiError: the reducer does not assign positions to tokens.
        """
        if reduced.assignment is None:
            raise SmaltiError(
                f"{type(self).__name__} mixes all positions in every token, which cannot be spread back: train a "
                "reconstruction with smalti.reducers.reduced instead."
            )
        return gather_tokens(reduced.tokens, fill_dropped(reduced.assignment, grid))


def check_tokens(tokens: Tensor, grid: Grid, maps: int = 1) -> None:
    """Check that tokens (B, N, C) fill their grid.

    Args:
        tokens: the tokens.
        grid: (height, width) of one map.
        maps: number of maps of this size, one after the other, such as the crops of an image.

    Raises:
        SmaltiError: they do not.
    """
    if tokens.ndim != 3:
        raise SmaltiError(f"Tokens must be (B, N, C), but their shape is {tuple(tokens.shape)}: add or flatten axes.")
    height, width = grid
    if height < 1 or width < 1 or maps * height * width != tokens.shape[1]:
        several = f"{maps} maps of " if maps > 1 else ""
        raise SmaltiError(
            f"The grid {several}{height} x {width} has {maps * height * width} positions, but there are "
            f"{tokens.shape[1]} tokens: pass the (height, width) of the grid, without class tokens."
        )


def check_saliency(saliency: Tensor | None, tokens: Tensor, reducer: str) -> Tensor:
    """Return the saliency if it is (B, N).

    Raises:
        SmaltiError: it is missing or has another shape.
    """
    if saliency is None:
        raise SmaltiError(
            f"{reducer} needs the saliency of every token: compute it with a function of smalti.reducers.saliency, such "
            "as cls_attention or feature_contrast."
        )
    if saliency.shape != tokens.shape[:2]:
        raise SmaltiError(
            f"The saliency has shape {tuple(saliency.shape)}, but there are {tuple(tokens.shape[:2])} tokens: pass one "
            "value per token, without class tokens."
        )
    return saliency


def check_keys(keys: Tensor | None, tokens: Tensor) -> Tensor:
    """Return the keys, or the tokens if there are none.

    Raises:
        SmaltiError: the keys are not (B, N, D).
    """
    if keys is None:
        return tokens
    if keys.ndim != 3 or keys.shape[:2] != tokens.shape[:2]:
        raise SmaltiError(
            f"The keys have shape {tuple(keys.shape)}, but there are {tuple(tokens.shape[:2])} tokens: pass one key per "
            "token, without class tokens."
        )
    return keys


def count_kept(keep: float, total: int) -> int:
    """Return how many of `total` tokens to keep: `keep` itself if it is an integer, else this fraction, rounded down.

    Raises:
        SmaltiError: the number is below 1 or above `total`, or the fraction is not in (0, 1].
    """
    if isinstance(keep, int):
        if not 1 <= keep <= total:
            raise SmaltiError(f"{keep} tokens cannot be kept of {total}: choose a number from 1 to {total}.")
        return keep
    if not 0 < keep <= 1:
        raise SmaltiError(f"The fraction of tokens to keep is {keep}: choose one above 0, up to 1.")
    # 100 * 0.29 is 28.999999999999996: a count must not depend on such errors.
    return max(int(total * keep + 1e-6), 1)


def full_lengths(tokens: Tensor) -> Tensor:
    """Return the lengths (B,) of tokens (B, M, D) without padding."""
    return torch.full((tokens.shape[0],), tokens.shape[1], dtype=torch.int64, device=tokens.device)


def same_for_all(index: Tensor, tokens: Tensor) -> Tensor:
    """Return indices (N,) as (B, N) on the device of the tokens."""
    return index.to(tokens.device).expand(tokens.shape[0], -1)


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Return the tokens (B, M, C) at indices (B, M) of tokens (B, N, C); zero where an index is negative."""
    gathered = tokens.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, tokens.shape[2]))
    return gathered.masked_fill(index[..., None] < 0, 0)


def compact(valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the valid entries of each row are, in order.

    Args:
        valid: (B, L) bool.

    Returns:
        (B, M) int64 positions, -1 for padding, where M is the largest number of valid entries of a row; and these numbers
        (B,).
    """
    lengths = valid.sum(1)
    longest = int(lengths.max()) if len(lengths) else 0
    order = torch.argsort((~valid).to(torch.uint8), dim=1, stable=True)[:, :longest]
    padding = torch.arange(longest, device=valid.device) >= lengths[:, None]
    return order.masked_fill(padding, -1), lengths


def invert(indices: Tensor, total: int) -> Tensor:
    """Return the assignment (B, total) of selected positions (B, M): where each position is in the list, else -1."""
    rank = torch.arange(indices.shape[1], device=indices.device).expand_as(indices)
    target = torch.where(indices < 0, total, indices)
    assignment = torch.full((indices.shape[0], total + 1), -1, dtype=torch.int64, device=indices.device)
    return assignment.scatter(1, target, rank)[:, :total]


def fill_dropped(assignment: Tensor, grid: Grid) -> Tensor:
    """Replace -1 in an assignment (B, N) by the token of the nearest position on the grid that was not dropped.

    Several maps, such as crops, are filled one by one. A map without any token keeps -1.
    """
    height, width = grid
    maps = assignment.reshape(-1, height * width)
    if not bool((maps < 0).any()):
        return assignment
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack((row.flatten(), column.flatten()), 1).double().to(assignment.device)
    filled = maps.clone()
    for index, tokens in enumerate(maps):
        dropped, kept = (tokens < 0).nonzero()[:, 0], (tokens >= 0).nonzero()[:, 0]
        if len(kept) and len(dropped):
            nearest = torch.cdist(points[dropped], points[kept]).argmin(1)
            filled[index, dropped] = tokens[kept[nearest]]
    return filled.reshape(assignment.shape)
