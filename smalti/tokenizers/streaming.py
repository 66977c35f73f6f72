"""A clip in chunks: cut so that a causal encoder takes them, and put together again.

Shapes: B batch, T frames, H, W pixels; t, h, w latent positions; N positions, in the order of time; s the stride in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.types import Code, Grids, Latents, Layout

Item = TypeVar("Item")


def with_last(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """The items, each with whether it is the last: one item is read ahead."""
    iterator = iter(items)
    try:
        held = next(iterator)
    except StopIteration:
        return
    for item in iterator:
        yield held, False
        held = item
    yield held, True


def frames_in_chunks(video: Tensor, chunk: int) -> Iterator[Tensor]:
    """Frame 0 alone, as causal networks code it, then `chunk` frames at a time: views of (B, 3, T, H, W)."""
    yield video[:, :, :1]
    for start in range(1, video.shape[2], chunk):
        yield video[:, :, start : start + chunk]


def aligned(chunks: Iterable[Tensor], stride: int) -> Iterator[tuple[Tensor, int, bool]]:
    """Chunks of any lengths as chunks that a causal encoder takes: 1 + k s frames first, then k s.

    Args:
        chunks: (B, 3, T, H, W), of one clip in order, T at least 1.
        stride: s.

    Returns:
        Each chunk, how many of its frames are true (the last frame is repeated up to the stride), and whether it is the
        last.

    Raises:
        SmaltiError: the frames change their size.
    """
    held: Tensor | None = None
    lead = 1
    for chunk, last in with_last(chunks):
        if held is not None and held.shape[3:] != chunk.shape[3:]:
            raise SmaltiError(
                f"The frames of a clip change from {tuple(held.shape[3:])} to {tuple(chunk.shape[3:])} pixels: resize them."
            )
        held = chunk if held is None else torch.cat([held, chunk], dim=2)
        frames = held.shape[2]
        if last:
            missing = -(frames - lead) % stride
            yield (F.pad(held, (0, 0, 0, 0, 0, missing), mode="replicate") if missing else held), frames, True
            return
        whole = lead + (frames - lead) // stride * stride if frames >= lead else 0
        if whole:
            yield held[:, :, :whole], whole, False
            held, lead = held[:, :, whole:].clone(), 0


def latents_in_chunks(latents: Latents, stride: int, chunk: int) -> Iterator[Latents]:
    """A clip's latents cut in time: those of frame 0 first, then those of at most `chunk` frames at a time.

    Args:
        latents: of a whole clip.
        stride: s.
        chunk: frames of a piece, rounded down to a multiple of s, at least s.
    """
    steps = [(1, h, w) for t, h, w in latents.grids for _ in range(t)]
    many = max(chunk // stride, 1)
    frames, place = latents.frames or 1, 0
    for start in range(1 - many, len(steps), many):
        piece = steps[max(start, 0) : start + many]
        grids = merged(piece)
        positions = slice(place, place + sum(h * w for _, h, w in piece))
        place = positions.stop
        true = min(frames, len(piece) * stride if start > 0 else 1)
        frames -= true
        ids = latents.code.ids
        code = Code(latents.z[:, positions], None if ids is None else ids[:, positions])
        yield replace(latents, code=code, grids=grids, frames=None if latents.frames is None else true)


def joined(pieces: Iterable[Latents]) -> Latents:
    """The latents of a whole clip from those of its chunks, in order."""
    every = list(pieces)
    if len(every) == 1:
        return every[0]
    ids = [piece.code.ids for piece in every if piece.code.ids is not None]
    code = Code(torch.cat([piece.z for piece in every], dim=1), torch.cat(ids, dim=1) if ids else None)
    clip = joined_layout(every)
    return Latents(code=code, grids=clip.grids, size=clip.size, frames=clip.frames)


def joined_layout(parts: Iterable[Layout]) -> Layout:
    """The layout of a whole clip from those of its consecutive parts; of an image, which is one part, its own."""
    every = list(parts)
    frames = None if every[0].frames is None else sum(part.frames or 0 for part in every)
    return Layout(grids=merged(grid for part in every for grid in part.grids), size=every[0].size, frames=frames)


def merged(grids: Iterable[tuple[int, int, int]]) -> Grids:
    """Grids that follow each other in time and are of one size, as one."""
    whole: list[tuple[int, int, int]] = []
    for t, h, w in grids:
        if whole and whole[-1][1:] == (h, w):
            whole[-1] = (whole[-1][0] + t, h, w)
        else:
            whole.append((t, h, w))
    return tuple(whole)
