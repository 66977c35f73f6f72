"""The data types that Smalti's packages exchange.

Shapes: B batch; T frames, H height, W width in pixels; t, h, w the same in latent positions; C channels; G tokens per
position; N positions of all grids of a sample, grid by grid, each grid flattened in (t, h, w) order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from smalti.errors import SmaltiError

Grids = tuple[tuple[int, int, int], ...]
"""(t, h, w) of each latent grid of a sample; usually one grid."""


@dataclass(frozen=True)
class Code:
    """The output of a bottleneck for a batch of positions.

    Attributes:
        z: (B, N, C) latent that the decoder receives, float32 or float64, with straight-through gradients if discrete.
        ids: (B, N, G) int64 tokens, each in [0, codebook_size); None if the bottleneck is continuous.
        losses: unweighted scalar losses by name (kl, commitment, token_entropy, ...); empty in evaluation mode.
        branch: the branch of a joint bottleneck that computed this code, "discrete" or "continuous"; None for other
            bottlenecks.
        log_variance: (B, N, C) log-variance of the Gaussian whose mean is z in evaluation mode; None for other bottlenecks.
    """

    z: Tensor
    ids: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    branch: str | None = None
    log_variance: Tensor | None = None

    def __getitem__(self, index: tuple[slice, ...] | slice) -> Code:
        """Index z and ids along batch and positions. Losses are dropped: they were computed for the whole batch."""
        ids, log_variance = (None if x is None else x[index] for x in (self.ids, self.log_variance))
        return Code(self.z[index], ids, branch=self.branch, log_variance=log_variance)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The latent grids of a sample, and its size before padding to the stride.

    Attributes:
        grids: (t, h, w) of each latent grid.
        size: (height, width) in pixels before padding.
        frames: number of frames before padding; None if the input was an image without a time axis.
    """

    grids: Grids
    size: tuple[int, int]
    frames: int | None = None

    @property
    def positions(self) -> int:
        """Number of positions N of a sample, over all grids."""
        return sum(math.prod(grid) for grid in self.grids)

    def split_time(self, stride: int, chunk: int) -> Iterator[Self]:
        """Split a clip into consecutive parts: frame 0 in the first part, then up to `chunk` frames per part.

        Args:
            stride: temporal stride of the tokenizer, in frames.
            chunk: frames per part, rounded down to a multiple of `stride`, at least `stride`.

        Yields:
            Parts of the same type. `join_time` inverts the split.
        """
        steps = [(1, h, w) for t, h, w in self.grids for _ in range(t)]
        steps_per_part = max(chunk // stride, 1)
        remaining, position = self.frames or 1, 0
        for start in range(1 - steps_per_part, len(steps), steps_per_part):
            part = steps[max(start, 0) : start + steps_per_part]
            end = position + sum(h * w for _, h, w in part)
            frames = min(remaining, len(part) * stride if start > 0 else 1)
            remaining -= frames
            yield replace(
                self._select_positions(slice(position, end)),
                grids=_merge_grids(part),
                frames=None if self.frames is None else frames,
            )
            position = end

    @classmethod
    def join_time(cls, parts: Iterable[Self]) -> Self:
        """Join the consecutive parts of a clip; a single part is returned unchanged.

        Args:
            parts: at least one part, in time order, all with the same frame size.
        """
        parts = list(parts)
        first = parts[0]
        if len(parts) == 1:
            return first
        return replace(
            cls._concatenate(parts),
            grids=_merge_grids(grid for part in parts for grid in part.grids),
            frames=None if first.frames is None else sum(part.frames or 0 for part in parts),
        )

    def layout(self) -> Layout:
        """Return the layout without the tensors that a subclass adds."""
        return Layout(grids=self.grids, size=self.size, frames=self.frames)

    def _select_positions(self, positions: slice) -> Self:
        """Return a copy with the tensors at some positions. The caller sets grids and frames."""
        return self

    @classmethod
    def _concatenate(cls, parts: list[Any]) -> Self:
        """Concatenate the tensors of parts along the positions. The caller sets grids and frames."""
        return parts[0]


@dataclass(frozen=True, kw_only=True)
class Latents(Layout):
    """An encoded batch: the code of every position, and the layout that is needed to decode it.

    Attributes:
        code: z (B, N, C), ids (B, N, G) or None, and losses.
    """

    code: Code

    @property
    def z(self) -> Tensor:
        """(B, N, C) latent that the decoder receives."""
        return self.code.z

    def to_grids(self) -> tuple[Tensor, ...]:
        """Return one (B, C, t, h, w) view of z per grid."""
        return unpack(self.z, self.grids)

    @classmethod
    def from_grids(cls, latents: tuple[Tensor, ...], size: tuple[int, int], frames: int | None = None) -> Latents:
        """Build latents for `Tokenizer.decode` from grids of another source, such as a generative model.

        Args:
            latents: one (B, C, t, h, w) tensor per grid. `Tokenizer.layout` returns the shapes for a size.
            size: (height, width) in pixels.
            frames: number of frames of the clip; None for an image.

        Raises:
            SmaltiError: `latents` is not a tuple of such tensors.
        """
        if isinstance(latents, Tensor) or any(grid.ndim != 5 for grid in latents):
            given = tuple(latents.shape) if isinstance(latents, Tensor) else [tuple(grid.shape) for grid in latents]
            raise SmaltiError(
                f"Latents.from_grids takes a tuple with one tensor (B, C, t, h, w) per grid, not {given}: add the time "
                "axis of an image with z.unsqueeze(2), and put a single grid into a tuple, (z,)."
            )
        z, grids = pack(latents)
        return cls(code=Code(z), grids=grids, size=size, frames=frames)

    def to(self, device: torch.device | str) -> Latents:
        """Return the same latents on another device, without losses."""
        ids, log_variance = (None if x is None else x.to(device) for x in (self.code.ids, self.code.log_variance))
        return replace(self, code=Code(self.z.to(device), ids, branch=self.code.branch, log_variance=log_variance))

    def _select_positions(self, positions: slice) -> Self:
        return replace(self, code=self.code[:, positions])

    @classmethod
    def _concatenate(cls, parts: list[Any]) -> Self:
        z = torch.cat([part.z for part in parts], dim=1)
        ids, log_variance = (
            torch.cat(tensors, dim=1) if (tensors := [x for x in optional if x is not None]) else None
            for optional in ([part.code.ids for part in parts], [part.code.log_variance for part in parts])
        )
        return replace(parts[0], code=Code(z, ids, branch=parts[0].code.branch, log_variance=log_variance))


@dataclass(frozen=True, kw_only=True)
class TokenGrid(Layout):
    """A tokenized batch: everything that `Tokenizer.detokenize` needs.

    Attributes:
        ids: (B, N, G) int64, each in [0, codebook_size).
    """

    ids: Tensor

    def to(self, device: torch.device | str) -> TokenGrid:
        """Return the same tokens on another device."""
        return replace(self, ids=self.ids.to(device))

    def _select_positions(self, positions: slice) -> Self:
        return replace(self, ids=self.ids[:, positions])

    @classmethod
    def _concatenate(cls, parts: list[Any]) -> Self:
        return replace(parts[0], ids=torch.cat([part.ids for part in parts], dim=1))


class Batch(NamedTuple):
    """What a data loader yields.

    Attributes:
        pixels: (B, 3, H, W) or (B, 3, T, H, W) float32 in [-1, 1].
        names: name of each sample: the file it was read from, or the shard and the key in the shard.
    """

    pixels: Tensor
    names: list[str]


def pack(latents: tuple[Tensor, ...]) -> tuple[Tensor, Grids]:
    """Concatenate the positions of several grids.

    Args:
        latents: one (B, C, t, h, w) tensor per grid, all with the same B and C.

    Returns:
        z (B, N, C), and the grids for `unpack`.
    """
    grids: Grids = tuple((grid.shape[2], grid.shape[3], grid.shape[4]) for grid in latents)
    return torch.cat([grid.flatten(2).transpose(1, 2) for grid in latents], dim=1), grids


def unpack(z: Tensor, grids: Grids) -> tuple[Tensor, ...]:
    """Invert `pack`: (B, N, C) to one (B, C, t, h, w) tensor per grid."""
    parts = z.split([math.prod(grid) for grid in grids], dim=1)
    return tuple(part.transpose(1, 2).unflatten(2, grid) for part, grid in zip(parts, grids, strict=True))


def _merge_grids(grids: Iterable[tuple[int, int, int]]) -> Grids:
    """Merge consecutive grids that have the same height and width."""
    merged: list[tuple[int, int, int]] = []
    for t, h, w in grids:
        if merged and merged[-1][1:] == (h, w):
            merged[-1] = (merged[-1][0] + t, h, w)
        else:
            merged.append((t, h, w))
    return tuple(merged)
