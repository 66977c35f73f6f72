"""Frames into video files that play everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.files import atomic_write
from smalti.video.container import as_rate, import_av

if TYPE_CHECKING:
    from av import VideoFrame

WRITTEN_SUFFIXES = (".mp4", ".mov", ".mkv")
"""What `write_video` can write."""

_BT709 = 1
_LIMITED = 1


def write_video(path: str | os.PathLike[str], frames: Iterable[Tensor], rate: Fraction | float, crf: int = 12) -> None:
    """Write frames as H.264 that plays everywhere (4:2:0, BT.709, index first), one by one, whole or not at all.

    H.264 in 4:2:0 has even sizes only: a frame of odd height or width gets its last row or column twice.

    Args:
        path: the file, .mp4, .mov or .mkv; missing folders are made, and a file that is there is replaced.
        frames: (3, H, W) uint8 RGB, all of one size.
        rate: frames a second, kept exactly.
        crf: x264's quality, 0 to 51: 12 is hard to tell from the original, 23 is x264's own default, 0 is nearly lossless.

    Raises:
        SmaltiError: no frames, another suffix, or a rate or quality out of range.
        ValueError: a frame of another shape or type.
        MissingExtraError: PyAV is not installed.
        OSError: the file cannot be written.
    """
    file, pace = Path(path), as_rate(rate)
    if file.suffix.lower() not in WRITTEN_SUFFIXES:
        raise SmaltiError(
            f"{file} cannot be written as a video: give a name that ends in {', '.join(WRITTEN_SUFFIXES)}."
        )
    if not 0 <= crf <= 51:
        raise SmaltiError(f"crf is {crf}: give x264's quality, from 0 (best) to 51.")
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise SmaltiError(f"There are no frames to write to {file}: give at least one.")
    av = import_av()
    with atomic_write(file) as partial:
        # The index in front, where players that stream look for it; Matroska needs none.
        options = {} if file.suffix.lower() == ".mkv" else {"movflags": "+faststart"}
        with av.open(str(partial), "w", options=options) as container:
            stream = container.add_stream("libx264", rate=pace, options={"crf": str(crf)})
            _, height, width = first.shape
            stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED
            for number, frame in enumerate(chain([first], rest)):
                picture = _picture(av, frame, (height, width))
                picture.pts, picture.time_base = number, 1 / pace
                container.mux(stream.encode(picture))
            container.mux(stream.encode())


def _picture(av: Any, frame: Tensor, size: tuple[int, int]) -> VideoFrame:
    """A frame for the encoder, its last row and column repeated to an even size."""
    if frame.dtype != torch.uint8 or tuple(frame.shape) != (3, *size):
        raise ValueError(
            f"A frame is {tuple(frame.shape)} {frame.dtype}, and (3, {size[0]}, {size[1]}) uint8 is written."
        )
    rows, columns = (torch.arange(n + n % 2).clamp(max=n - 1) for n in size)
    even = frame.cpu() if not any(n % 2 for n in size) else frame.cpu()[:, rows][:, :, columns]
    picture = av.VideoFrame.from_ndarray(even.permute(1, 2, 0).contiguous().numpy(), "rgb24")
    return picture.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED)
