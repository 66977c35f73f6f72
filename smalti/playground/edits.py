"""Edits of tokens, to see what they mean. Each returns new tokens and leaves the given ones unchanged.

Shapes: B batch; N positions; G tokens per position.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.types import Grids, TokenGrid


@dataclass(frozen=True)
class Region:
    """A rectangle of a frame, in fractions of its height and width, in all frames and grids.

    Attributes:
        top: upper edge in [0, 1).
        left: left edge in [0, 1).
        bottom: lower edge in (top, 1].
        right: right edge in (left, 1].

    Raises:
        SmaltiError: the edges are not in this order.
    """

    top: float = 0.0
    left: float = 0.0
    bottom: float = 1.0
    right: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.top < self.bottom <= 1 and 0 <= self.left < self.right <= 1):
            raise SmaltiError(
                f"The region from ({self.top:g}, {self.left:g}) to ({self.bottom:g}, {self.right:g}) is empty or outside "
                "of the frame: choose top < bottom and left < right, from 0 to 1."
            )

    def positions(self, grids: Grids) -> Tensor:
        """Return (N,) bool: the positions of all grids whose center is in the region."""
        parts = []
        for t, h, w in grids:
            rows, columns = (torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w
            inside = ((rows >= self.top) & (rows < self.bottom))[:, None] & (
                (columns >= self.left) & (columns < self.right)
            )
            parts.append(inside.expand(t, h, w).flatten())
        return torch.cat(parts)


def swap_tokens(tokens: TokenGrid, first: int, second: int, region: Region = Region()) -> TokenGrid:
    """Replace the id `first` by `second` and vice versa, in a region."""
    ids, inside = tokens.ids, _inside(tokens, region)
    swapped = torch.where(ids == first, second, torch.where(ids == second, first, ids))
    return replace(tokens, ids=torch.where(inside, swapped, ids))


def mask_tokens(tokens: TokenGrid, value: int, region: Region = Region()) -> TokenGrid:
    """Set all tokens of a region to one id."""
    return replace(tokens, ids=torch.where(_inside(tokens, region), value, tokens.ids))


def add_noise(
    tokens: TokenGrid, probability: float, codebook_size: int, seed: int = 0, region: Region = Region()
) -> TokenGrid:
    """Replace each token of a region, with a probability, by an id that is drawn uniformly.

    Args:
        tokens: the tokens.
        probability: probability of each token, in [0, 1].
        codebook_size: number of ids.
        seed: seed of the choice and of the ids.
        region: where tokens are replaced.

    Raises:
        SmaltiError: `probability` is not in [0, 1].
    """
    if not 0 <= probability <= 1:
        raise SmaltiError(f"The probability of noise is {probability:g}: choose a number from 0 to 1.")
    generator = torch.Generator().manual_seed(seed)
    ids = tokens.ids.cpu()
    chosen = torch.rand(ids.shape, generator=generator) < probability
    random = torch.randint(min(codebook_size, 2**63 - 1), ids.shape, generator=generator)
    edited = torch.where(chosen & _inside(tokens, region).cpu(), random, ids)
    return replace(tokens, ids=edited.to(tokens.ids.device))


def most_frequent(tokens: TokenGrid, count: int = 2) -> list[int]:
    """Return the most frequent ids, most frequent first."""
    ids, counts = tokens.ids.flatten().unique(return_counts=True)
    return ids[counts.argsort(descending=True, stable=True)][:count].tolist()


def _inside(tokens: TokenGrid, region: Region) -> Tensor:
    return region.positions(tokens.grids).to(tokens.ids.device)[None, :, None]
