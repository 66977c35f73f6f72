"""What the rooms of the house hand to each other.

Shapes: B batch, T frames, H height, W width in pixels; t, h, w the same in latent positions; C channels;
N positions of all grids of a sample, in the order of the grids, each flattened (t, h, w) row by row; G tokens a
position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

Grids = tuple[tuple[int, int, int], ...]
"""(t, h, w) of each latent grid of a sample; usually one."""


@dataclass(frozen=True)
class Code:
    """What a bottleneck returns for a batch of positions.

    Attributes:
        z: (B, N, C) what the decoder sees, float32 or float64; straight-through where discrete.
        ids: (B, N, G) int64 tokens, each in [0, codebook_size); None where the bottleneck is continuous.
        losses: unweighted scalars by name (kl, commitment, token_entropy, ...); empty in evaluation mode.
    """

    z: Tensor
    ids: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the positions of a sample lie, and what is needed to come back to its pixels.

    Attributes:
        grids: (t, h, w) of each latent grid.
        size: true (height, width) in pixels, before padding to the stride.
        frames: true number of frames before padding; None: the input was an image without a time axis.
    """

    grids: Grids
    size: tuple[int, int]
    frames: int | None = None

    @property
    def positions(self) -> int:
        """Number of positions N of a sample, over all grids."""
        return sum(math.prod(grid) for grid in self.grids)


@dataclass(frozen=True, kw_only=True)
class Latents(Layout):
    """An encoded batch: the code of every position, and the layout to decode it.

    Attributes:
        code: z (B, N, C), ids (B, N, G) or None, losses.
    """

    code: Code

    @property
    def z(self) -> Tensor:
        """(B, N, C) what the decoder sees."""
        return self.code.z

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """One (B, C, t, h, w) view of z a grid."""
        return unpack(self.z, self.grids)


@dataclass(frozen=True, kw_only=True)
class TokenGrid(Layout):
    """A tokenized batch: all that `Tokenizer.detokenize` needs.

    Attributes:
        ids: (B, N, G) int64, each in [0, codebook_size).
    """

    ids: Tensor

    def to(self, device: torch.device | str) -> TokenGrid:
        """The same tokens on another device."""
        return replace(self, ids=self.ids.to(device))


class Batch(NamedTuple):
    """What a data loader yields.

    Attributes:
        pixels: (B, 3, H, W) or (B, 3, T, H, W) float32 in [-1, 1].
        names: one a sample: the file it came from, or the shard and the key in it.
    """

    pixels: Tensor
    names: list[str]


def pack(maps: tuple[Tensor, ...]) -> tuple[Tensor, Grids]:
    """Put the positions of several grids in a row.

    Args:
        maps: one (B, C, t, h, w) tensor a grid, all of one B and C.

    Returns:
        (B, N, C) and the grids, for `unpack`.
    """
    grids: Grids = tuple((m.shape[2], m.shape[3], m.shape[4]) for m in maps)
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1), grids


def unpack(z: Tensor, grids: Grids) -> tuple[Tensor, ...]:
    """The inverse of `pack`: (B, N, C) to one (B, C, t, h, w) tensor a grid."""
    parts = z.split([math.prod(grid) for grid in grids], dim=1)
    return tuple(part.transpose(1, 2).unflatten(2, grid) for part, grid in zip(parts, grids, strict=True))
