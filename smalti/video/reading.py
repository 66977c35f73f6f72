"""Reading the frames of a video file by their timestamps."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, count, islice, takewhile
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.video.container import OpenVideo, UnreadableVideoError, Video, import_av, normalize_frame_rate, open_video

if TYPE_CHECKING:
    from av import VideoFrame

_SEEK_MARGINS = (Fraction(0), Fraction(2), Fraction(10))
"""Seconds before the requested time to seek to, tried in order: in some formats, a seek ends after its target."""

_HDR_CURVES = {16: "PQ", 18: "HLG"}
"""Names of the HDR transfer functions by their code in ITU-T H.273: SMPTE ST 2084 and ARIB STD-B67.

Values of these curves, read as SDR, give gray and dark pictures. There are many ways to map them to SDR: the user chooses.
"""

_HDR_REMEDY = (
    "convert it to SDR, for example with `ffmpeg -i hdr.mp4 -vf zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,"
    "tonemap=hable,zscale=t=bt709:m=bt709:r=tv,format=yuv420p sdr.mp4`"
)

_SPARSE_TIMESTAMPS = frozenset(("mpeg", "mpegts"))
"""Formats that do not store a timestamp for each frame: MPEG program streams (.mpg, .vob) and transport streams.

FFmpeg assigns the timestamps that are stored to frames, and derives the others from them. A keyframe can get the timestamp
of another frame. Its neighbors show the mistake, so the first frame after a seek is not used, and seeks need a margin.
"""


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file.

    Attributes:
        size: (height, width) in pixels as displayed, after rotation.
        rate: average frame rate, in frames per second.
        duration: duration in seconds; None if the file does not specify it.
        frames: number of frames; None if the file does not specify it.
    """

    size: tuple[int, int]
    rate: Fraction
    duration: Fraction | None
    frames: int | None


def probe(video: Video, threads: int = 0) -> VideoInfo:
    """Return the properties of a video file. Decodes the first frame only.

    Args:
        video: a path, or the bytes of a file.
        threads: number of threads for decoding; 0 lets FFmpeg choose.

    Raises:
        UnreadableVideoError: the file is missing, not a video, has audio only, is HDR, or its first frame is damaged.
        MissingExtraError: PyAV is not installed.
    """
    with open_video(video, threads) as opened:
        first = next(_with_times(opened, _decode(opened)), None)
        if first is None:
            raise UnreadableVideoError(opened.name, "it contains no frames")
        height, width = first.frame.height, first.frame.width
        transposed = _orientation(first.frame)[0]
        return VideoInfo(
            size=(width, height) if transposed else (height, width),
            rate=opened.rate,
            duration=opened.duration,
            frames=opened.stream.frames or None,
        )


def read_frames(
    video: Video,
    *,
    rate: Fraction | float | None = None,
    start: Fraction | float = 0,
    stop: Fraction | float | None = None,
    stride: int = 1,
    threads: int = 0,
) -> Iterator[Tensor]:
    """Yield the frames of a video, decoding them one at a time. A late `start` is reached by seeking.

    With a rate, frames are sampled by their timestamps: for each of the times start, start + 1 / rate, ..., the frame that
    is displayed at that time. Videos with a variable frame rate keep their speed, and no rounding error accumulates. The
    first frame is also used for times before it; the last frame is used until its duration ends.

    Videos in HDR (PQ or HLG) are refused, because they are not converted to SDR. Pixels are assumed to be square. Colors
    are converted by the matrix that the file specifies (BT.601 if none). Damage that the decoder conceals silently is not
    detected.

    Args:
        video: a path, or the bytes of a file.
        rate: frames per second to sample; None to yield every frame whose time is `start` or later once.
        start: time of the first frame in seconds, at least 0.
        stop: end time in seconds, exclusive; None for the end of the video.
        stride: yield every stride-th of these frames, beginning with the first.
        threads: number of threads for decoding; 0 lets FFmpeg choose.

    Yields:
        (3, H, W) uint8 RGB, all of one size; the memory layout is (H, W, 3).

    Raises:
        UnreadableVideoError: during iteration: the file is missing, not a video, HDR, damaged, shorter than the duration
            that it specifies, or its frames change their size.
        SmaltiError: the rate is not positive, `start` is negative, or `stride` is less than 1.
        MissingExtraError: PyAV is not installed.
    """
    rate = None if rate is None else normalize_frame_rate(rate)
    begin, end = _to_fraction(start), None if stop is None else _to_fraction(stop)
    if begin < 0:
        raise SmaltiError(f"start is {float(start)}: give seconds from the start of the video, at least 0.")
    if stride < 1:
        raise SmaltiError(f"stride is {stride}: give at least 1, which yields every frame.")
    return _read(video, _Selection(rate, begin, end, stride), threads)


class _TimedFrame(NamedTuple):
    """A decoded frame and the time from which it is displayed, in seconds."""

    time: Fraction
    frame: VideoFrame


class _Selection(NamedTuple):
    """The arguments of `read_frames` that select frames."""

    rate: Fraction | None
    start: Fraction
    stop: Fraction | None
    stride: int


def _read(video: Video, selection: _Selection, threads: int) -> Iterator[Tensor]:
    with open_video(video, threads) as opened:
        frames = _seek(opened, selection.start) if selection.start else _with_times(opened, _decode(opened))
        if frames is not None:
            yield from _to_tensors(opened, _select(opened, frames, selection))
            return
    with open_video(video, threads) as opened:
        yield from _to_tensors(opened, _select(opened, _with_times(opened, _decode(opened)), selection))


def _seek(opened: OpenVideo, start: Fraction) -> Iterator[_TimedFrame] | None:
    """Return the frames from one that starts at `start` or earlier; None if seeking fails and the caller must reopen."""
    av = import_av()
    sparse = opened.container.format.name in _SPARSE_TIMESTAMPS
    for margin in _SEEK_MARGINS[1 if sparse else 0 :]:
        if start <= margin:
            break
        try:
            target = opened.start_pts + int((start - margin) / opened.time_base)
            opened.container.seek(target, stream=opened.stream)
            frames = _with_times(opened, islice(_decode(opened), 1 if sparse else 0, None))
            first = next(frames, None)
        except av.FFmpegError:
            break
        if first is not None and first.time <= start + opened.tolerance:
            return chain([first], frames)
    return None


def _decode(opened: OpenVideo) -> Iterator[VideoFrame]:
    for packet in opened.container.demux(opened.stream):
        yield from packet.decode()


def _with_times(opened: OpenVideo, frames: Iterator[VideoFrame]) -> Iterator[_TimedFrame]:
    """Add the time to each frame. Times never decrease; a missing timestamp is derived from the frame rate.

    In formats with sparse timestamps, so is one that is not later than that of the previous frame.

    Raises:
        UnreadableVideoError: a frame is damaged, or HDR.
    """
    sparse = opened.container.format.name in _SPARSE_TIMESTAMPS
    time: Fraction | None = None
    previous: int | None = None
    for frame in frames:
        if frame.pts is None or (sparse and previous is not None and frame.pts <= previous):
            time = Fraction(0) if time is None else time + 1 / opened.rate
        else:
            timestamp = (frame.pts - opened.start_pts) * (frame.time_base or opened.time_base)
            time = timestamp if time is None else max(time, timestamp)
        previous = frame.pts
        if frame.is_corrupt:
            raise UnreadableVideoError(opened.name, f"it is damaged at {float(time):.2f} s")
        if (curve := _HDR_CURVES.get(frame.color_trc)) is not None:
            raise UnreadableVideoError(opened.name, f"it is HDR ({curve})", _HDR_REMEDY)
        yield _TimedFrame(time, frame)


def _select(opened: OpenVideo, frames: Iterator[_TimedFrame], selection: _Selection) -> Iterator[VideoFrame]:
    """Yield the selected frames."""
    if selection.rate is None:
        selected = _select_all(opened, frames, selection)
    else:
        selected = _sample_by_timestamp(opened, frames, selection, 1 / selection.rate)
    return islice(selected, 0, None, selection.stride)


def _select_all(opened: OpenVideo, frames: Iterator[_TimedFrame], selection: _Selection) -> Iterator[VideoFrame]:
    """Yield each frame from start to stop once."""
    current = None
    for current in frames:
        if selection.stop is not None and current.time >= selection.stop - opened.tolerance:
            return
        if current.time >= selection.start - opened.tolerance:
            yield current.frame
    _end_time(opened, current, selection)


def _sample_by_timestamp(
    opened: OpenVideo, frames: Iterator[_TimedFrame], selection: _Selection, step: Fraction
) -> Iterator[VideoFrame]:
    """Yield the frame displayed at each of the times start, start + step, ... before stop."""
    start, stop = selection.start, selection.stop
    times = (start + index * step for index in count())
    times = takewhile(lambda time: stop is None or time < stop - opened.tolerance, times)
    time = next(times, None)
    current: _TimedFrame | None = None
    for following in frames:
        while current is not None and time is not None and time < following.time - opened.tolerance:
            yield current.frame
            time = next(times, None)
        if time is None:
            return
        current = following
    end = _end_time(opened, current, selection)
    while current is not None and time is not None and time < end - opened.tolerance:
        yield current.frame
        time = next(times, None)


def _end_time(opened: OpenVideo, last: _TimedFrame | None, selection: _Selection) -> Fraction:
    """Return the time at which the last frame ends.

    Raises:
        UnreadableVideoError: there is no frame, or the frames end well before the duration that the file specifies.
    """
    if last is None:
        raise UnreadableVideoError(opened.name, "it contains no frames")
    frame = last.frame
    length = frame.duration * (frame.time_base or opened.time_base) if frame.duration else 1 / opened.rate
    end, expected = last.time + length, opened.duration
    if expected is None or (not opened.stream.duration and len(opened.container.streams) > 1):
        return end  # the duration of the file may be that of another stream
    expected = expected if selection.stop is None else min(expected, selection.stop)
    if end + max(Fraction(1, 2), 2 / opened.rate) < expected:
        raise UnreadableVideoError(opened.name, f"it is truncated after {float(end):.2f} of {float(expected):.2f} s")
    return end


def _to_tensors(opened: OpenVideo, frames: Iterator[VideoFrame]) -> Iterator[Tensor]:
    """Convert frames to (3, H, W) uint8 RGB.

    Raises:
        UnreadableVideoError: the frame size changes.
    """
    shape: torch.Size | None = None
    for frame in frames:
        tensor = _to_tensor(frame, opened)
        if shape is not None and tensor.shape != shape:
            raise UnreadableVideoError(
                opened.name,
                f"its frame size changes from {shape[1]} x {shape[2]} to {tensor.shape[1]} x {tensor.shape[2]} pixels",
            )
        shape = tensor.shape
        yield tensor


def _to_tensor(frame: VideoFrame, opened: OpenVideo) -> Tensor:
    rgb = opened.converter.reformat(frame, format="rgb24", threads=opened.threads)
    image = torch.from_numpy(rgb.to_ndarray())
    transposed, flipped_vertically, flipped_horizontally = _orientation(frame)
    if transposed:
        image = image.transpose(0, 1)
    flips = [axis for axis, flipped in enumerate((flipped_vertically, flipped_horizontally)) if flipped]
    return (image.flip(flips) if flips else image).permute(2, 0, 1)


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Return how to display a frame: whether to transpose it, then flip it vertically, then flip it horizontally.

    The display matrix (a b u, c d v, x y w) maps a point (x, y) to (a x + c y, b x + d y).
    """
    data = frame.side_data.get("DISPLAYMATRIX")  # pyright: ignore[reportArgumentType] - names are keys, too
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("9i", bytes(data))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


def _to_fraction(seconds: Fraction | float) -> Fraction:
    return Fraction(seconds).limit_denominator(1_000_000)
