"""Writing frames to video files."""

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
from smalti.video.container import import_av, normalize_frame_rate

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import OutputContainer
    from av.video.stream import VideoStream

WRITABLE_SUFFIXES = (".mp4", ".mov", ".mkv")
"""Suffixes of the formats that `write_video` can write."""

_BT709 = 1
_LIMITED_RANGE = 1


def write_video(path: str | os.PathLike[str], frames: Iterable[Tensor], rate: Fraction | float, crf: int = 12) -> None:
    """Write frames as H.264 that every player supports (4:2:0, BT.709, index at the front).

    Frames are encoded one at a time, and the file is written atomically. H.264 in 4:2:0 requires an even height and width:
    the last row or column of an odd size is repeated.

    Args:
        path: the file to write or replace, .mp4, .mov or .mkv. Missing folders are created.
        frames: (3, H, W) uint8 RGB each, all of one size.
        rate: frames per second, stored exactly.
        crf: constant rate factor (quality) of x264, 0 to 51: 0 is nearly lossless, 12 is hard to distinguish from the
            original, 23 is the default of x264.

    Raises:
        SmaltiError: there are no frames, the suffix is not supported, or `rate` or `crf` is out of range.
        ValueError: a frame has another shape or type.
        MissingExtraError: PyAV is not installed.
        OSError: the file cannot be written.
    """
    file, rate = Path(path), normalize_frame_rate(rate)
    if file.suffix.lower() not in WRITABLE_SUFFIXES:
        raise SmaltiError(
            f"{file} cannot be written as a video: give a name that ends in {', '.join(WRITABLE_SUFFIXES)}."
        )
    if not 0 <= crf <= 51:
        raise SmaltiError(f"crf is {crf}: give the quality of x264, from 0 (best) to 51.")
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise SmaltiError(f"There are no frames to write to {file}: give at least one.")
    _, height, width = first.shape
    av = import_av()
    with atomic_write(file) as partial:
        # Players that stream a file need its index at the front. Matroska does not have this option.
        options = {} if file.suffix.lower() == ".mkv" else {"movflags": "+faststart"}
        with av.open(str(partial), "w", options=options) as container:
            stream = _add_h264_stream(container, (height, width), rate, crf)
            for index, frame in enumerate(chain([first], remaining)):
                encodable = _to_video_frame(av, frame, (height, width))
                encodable.pts, encodable.time_base = index, 1 / rate
                container.mux(stream.encode(encodable))
            container.mux(stream.encode())


def _add_h264_stream(container: OutputContainer, size: tuple[int, int], rate: Fraction, crf: int) -> VideoStream:
    """Add an H.264 stream for frames of `size`, rounded up to an even height and width."""
    stream: Any = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
    stream.height, stream.width = (n + n % 2 for n in size)
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED_RANGE
    return stream


def _to_video_frame(av: Any, frame: Tensor, size: tuple[int, int]) -> VideoFrame:
    """Convert a frame for the encoder; the last row and column are repeated up to an even size.

    Raises:
        ValueError: the frame is not (3, *size) uint8.
    """
    if frame.dtype != torch.uint8 or tuple(frame.shape) != (3, *size):
        raise ValueError(
            f"Expected frames of shape (3, {size[0]}, {size[1]}) uint8, got {tuple(frame.shape)} {frame.dtype}."
        )
    rows, columns = (torch.arange(n + n % 2).clamp(max=n - 1) for n in size)
    even = frame.cpu() if not any(n % 2 for n in size) else frame.cpu()[:, rows][:, :, columns]
    encodable = av.VideoFrame.from_ndarray(even.permute(1, 2, 0).contiguous().numpy(), "rgb24")
    return encodable.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE)
