"""Cutting a clip into chunks that a causal encoder accepts.

Shapes: B batch; T frames, H, W pixels; s temporal stride.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import SmaltiError

Item = TypeVar("Item")

DEFAULT_CHUNK = 4
"""Default frames per chunk when no gradients are recorded, rounded up to a multiple of the stride."""


def chunk_size(stride: int, chunk: int = DEFAULT_CHUNK) -> int:
    """Round a number of frames per chunk up to a multiple of the temporal stride."""
    return -(-chunk // stride) * stride


def with_last(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """Yield each item together with a flag that is True for the last one. Reads one item ahead."""
    iterator = iter(items)
    try:
        previous = next(iterator)
    except StopIteration:
        return
    for item in iterator:
        yield previous, False
        previous = item
    yield previous, True


def split_frames(video: Tensor, chunk: int) -> Iterator[Tensor]:
    """Split (B, 3, T, H, W) into views: first frame 0 alone, as causal networks encode it, then `chunk` frames each."""
    yield video[:, :, :1]
    for start in range(1, video.shape[2], chunk):
        yield video[:, :, start : start + chunk]


def align_chunks(chunks: Iterable[Tensor], stride: int) -> Iterator[tuple[Tensor, int, bool]]:
    """Regroup chunks of any lengths into chunks that a causal encoder accepts: 1 + k s frames first, then k s frames.

    Args:
        chunks: (B, 3, T, H, W) each, consecutive parts of one clip, T at least 1.
        stride: s.

    Yields:
        A chunk, its number of frames before padding, and whether it is the last chunk. The last chunk is padded to the
        stride by repeating its last frame.

    Raises:
        SmaltiError: the batch size or the frame size changes within the clip.
    """
    held: Tensor | None = None
    lead = 1
    for chunk, last in with_last(chunks):
        if held is not None and (len(held), *held.shape[3:]) != (len(chunk), *chunk.shape[3:]):
            raise SmaltiError(
                f"The chunks of a clip change from {tuple(held.shape)} to {tuple(chunk.shape)}: all need the same batch "
                "size, height and width."
            )
        held = chunk if held is None else torch.cat([held, chunk], dim=2)
        frames = held.shape[2]
        if last:
            missing = -(frames - lead) % stride
            yield (F.pad(held, (0, 0, 0, 0, 0, missing), mode="replicate") if missing else held), frames, True
            return
        complete = lead + (frames - lead) // stride * stride if frames >= lead else 0
        if complete:
            yield held[:, :, :complete], complete, False
            held, lead = held[:, :, complete:].clone(), 0
