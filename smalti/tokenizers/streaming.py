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

MIN_FRAMES = 4
"""Minimum frames per chunk on an accelerator, which needs more work at a time than a CPU."""

MIN_PIXELS = 2**16
"""Minimum pixels per chunk. With fewer, the overhead of each layer takes a considerable part of the time."""

MIN_POSITIONS = 64
"""Minimum latent positions per chunk. With fewer, reading the weights of the layers next to the latent takes most of it."""


def chunk_size(stride: int, chunk: int) -> int:
    """Round a number of frames per chunk up to a multiple of the temporal stride."""
    return -(-chunk // stride) * stride


def default_chunk(stride: tuple[int, int, int], size: tuple[int, int], device: torch.device) -> int:
    """Return the frames per chunk when no gradients are recorded: the fewest that keep a device busy.

    More frames would take more memory and, on a CPU, more time, because they exceed its caches. A chunk of large frames is
    one latent frame; small frames are encoded and decoded many at a time.

    Args:
        stride: pixels per latent position along (T, H, W).
        size: (height, width) of the frames in pixels.
        device: device of the weights.

    Returns:
        A multiple of the temporal stride.
    """
    height, width = size
    positions = -(-height // stride[1]) * -(-width // stride[2])
    frames = max(-(-MIN_PIXELS // (height * width)), -(-MIN_POSITIONS // positions) * stride[0])
    return chunk_size(stride[0], frames if device.type == "cpu" else max(frames, MIN_FRAMES))


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


def join_chunks(chunks: Iterable[Tensor]) -> Tensor:
    """Join the chunks of a clip, for an encoder that needs the whole clip.

    Raises:
        SmaltiError: the batch size or the frame size changes within the clip.
    """
    parts = list(chunks)
    for part in parts[1:]:
        _check_same_size(parts[0], part)
    return torch.cat(parts, dim=2)


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
        if held is not None:
            _check_same_size(held, chunk)
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


def _check_same_size(first: Tensor, second: Tensor) -> None:
    if (len(first), *first.shape[3:]) != (len(second), *second.shape[3:]):
        raise SmaltiError(
            f"The chunks of a clip change from {tuple(first.shape)} to {tuple(second.shape)}: all need the same batch "
            "size, height and width."
        )
