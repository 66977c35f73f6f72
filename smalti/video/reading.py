"""Frames out of video files, by their timestamps."""

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
from smalti.video.container import OpenVideo, UnreadableVideoError, Video, as_rate, import_av, open_video

if TYPE_CHECKING:
    from av import VideoFrame

_STEPS_BACK = (Fraction(0), Fraction(2), Fraction(10))
"""Seconds before the wanted time that are sought one after the other: some formats land after what was asked for."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself.

    Attributes:
        size: (height, width) in pixels as shown, after rotation.
        rate: frames a second, on average.
        duration: seconds; None: the file does not say.
        frames: their number; None: the file does not say.
    """

    size: tuple[int, int]
    rate: Fraction
    duration: Fraction | None
    frames: int | None


def probe(video: Video) -> VideoInfo:
    """Look at a video file without reading more of it than the first frame.

    Raises:
        UnreadableVideoError: missing, no video, without a picture (audio only), or its first frame is damaged.
        MissingExtraError: PyAV is not installed.
    """
    with open_video(video) as opened:
        first = next(_timed(opened, _decoded(opened)), None)
        if first is None:
            raise UnreadableVideoError(opened.name, "it holds no frame")
        height, width = first.frame.height, first.frame.width
        turned = _orientation(first.frame)[0]
        return VideoInfo(
            size=(width, height) if turned else (height, width),
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
    """The frames of a video, decoded one by one as they are asked for; a late `start` is sought, not decoded up to.

    With a rate, the frames are sampled by their timestamps: for each of the times start, start + 1 / rate, ... the frame
    that is on show then, so that videos of a variable frame rate keep their pace, and none drifts. Before the first
    frame the first is on show, after the last one the last, for as long as it lasts.

    Stored pixels are taken for square, and colours are converted by the matrix that the file names (BT.601 if none).
    Damage that the decoder conceals without a word cannot be seen.

    Args:
        video: a path, or the bytes of a file.
        rate: frames a second; None: every frame as it is, whose time is `start` or later.
        start: seconds.
        stop: seconds, exclusive; None: to the end.
        stride: of these frames every so many-th is taken, beginning with the first.
        threads: that decode; 0: FFmpeg decides.

    Yields:
        (3, H, W) uint8 RGB, all of one size; the memory lies (H, W, 3).

    Raises:
        UnreadableVideoError: when it is met: missing, no video, damaged, broken off before the end that the file states,
            or frames of several sizes.
        SmaltiError: a rate that is not positive, a start below 0, or a stride below 1.
        MissingExtraError: PyAV is not installed.
    """
    pace = None if rate is None else as_rate(rate)
    begin, end = _exact(start), None if stop is None else _exact(stop)
    if begin < 0:
        raise SmaltiError(f"start is {float(start)}: give seconds from the start of the video, at least 0.")
    if stride < 1:
        raise SmaltiError(f"stride is {stride}: give at least 1, which takes every frame.")
    return _read(video, _Wanted(pace, begin, end, stride), threads)


class _Timed(NamedTuple):
    """A decoded frame and when it comes on."""

    time: Fraction
    frame: VideoFrame


class _Wanted(NamedTuple):
    """What `read_frames` was asked for."""

    rate: Fraction | None
    start: Fraction
    stop: Fraction | None
    stride: int


def _read(video: Video, wanted: _Wanted, threads: int) -> Iterator[Tensor]:
    with open_video(video, threads) as opened:
        timed = _sought(opened, wanted.start) if wanted.start else _timed(opened, _decoded(opened))
        if timed is not None:
            yield from _tensors(opened, _sampled(opened, timed, wanted))
            return
    with open_video(video, threads) as opened:
        yield from _tensors(opened, _sampled(opened, _timed(opened, _decoded(opened)), wanted))


def _sought(opened: OpenVideo, start: Fraction) -> Iterator[_Timed] | None:
    """The frames from one that is on show at `start` or before; None: they cannot be had without beginning at the start."""
    av = import_av()
    for back in _STEPS_BACK:
        if start <= back:
            break
        try:
            opened.container.seek(opened.origin + int((start - back) / opened.tick), stream=opened.stream)
            timed = _timed(opened, _decoded(opened))
            first = next(timed, None)
        except av.FFmpegError:
            break
        if first is not None and first.time <= start + opened.tolerance:
            return chain([first], timed)
    return None


def _decoded(opened: OpenVideo) -> Iterator[VideoFrame]:
    for packet in opened.container.demux(opened.stream):
        yield from packet.decode()


def _timed(opened: OpenVideo, frames: Iterator[VideoFrame]) -> Iterator[_Timed]:
    """Give each frame its time; times never run backwards, and one that is missing follows by the frame rate."""
    time: Fraction | None = None
    for frame in frames:
        if frame.pts is not None:
            own = (frame.pts - opened.origin) * (frame.time_base or opened.tick)
            time = own if time is None else max(time, own)
        else:
            time = Fraction(0) if time is None else time + 1 / opened.rate
        if frame.is_corrupt:
            raise UnreadableVideoError(opened.name, f"it is damaged at {float(time):.2f} s")
        yield _Timed(time, frame)


def _sampled(opened: OpenVideo, timed: Iterator[_Timed], wanted: _Wanted) -> Iterator[VideoFrame]:
    """The frames that are wanted."""
    rate = wanted.rate
    frames = _every(opened, timed, wanted) if rate is None else _on_show(opened, timed, wanted, 1 / rate)
    return islice(frames, 0, None, wanted.stride)


def _every(opened: OpenVideo, timed: Iterator[_Timed], wanted: _Wanted) -> Iterator[VideoFrame]:
    """Each frame as it is, from start to stop."""
    last = None
    for last in timed:
        if wanted.stop is not None and last.time >= wanted.stop - opened.tolerance:
            return
        if last.time >= wanted.start - opened.tolerance:
            yield last.frame
    _end(opened, last, wanted)


def _on_show(opened: OpenVideo, timed: Iterator[_Timed], wanted: _Wanted, step: Fraction) -> Iterator[VideoFrame]:
    """For each of the times start, start + step, ... the frame on show."""
    times = (wanted.start + number * step for number in count())
    times = takewhile(lambda time: wanted.stop is None or time < wanted.stop - opened.tolerance, times)
    time = next(times, None)
    shown: _Timed | None = None
    for timing in timed:
        while shown is not None and time is not None and time < timing.time - opened.tolerance:
            yield shown.frame
            time = next(times, None)
        if time is None:
            return
        shown = timing
    end = _end(opened, shown, wanted)
    while shown is not None and time is not None and time < end - opened.tolerance:
        yield shown.frame
        time = next(times, None)


def _end(opened: OpenVideo, last: _Timed | None, wanted: _Wanted) -> Fraction:
    """When the last frame goes off; refuses a file whose frames end well before the end that it states."""
    if last is None:
        raise UnreadableVideoError(opened.name, "it holds no frame")
    length = last.frame.duration * (last.frame.time_base or opened.tick) if last.frame.duration else 1 / opened.rate
    end, stated = last.time + length, opened.duration
    if stated is None or (not opened.stream.duration and len(opened.container.streams) > 1):
        return end  # the file's duration may be that of another stream
    stated = stated if wanted.stop is None else min(stated, wanted.stop)
    if end + max(Fraction(1, 2), 2 / opened.rate) < stated:
        raise UnreadableVideoError(opened.name, f"it breaks off after {float(end):.2f} of {float(stated):.2f} s")
    return end


def _tensors(opened: OpenVideo, frames: Iterator[VideoFrame]) -> Iterator[Tensor]:
    size: torch.Size | None = None
    for frame in frames:
        tensor = _tensor(frame, opened)
        if size is not None and tensor.shape != size:
            raise UnreadableVideoError(
                opened.name,
                f"its frames change from {size[1]} x {size[2]} to {tensor.shape[1]} x {tensor.shape[2]} pixels",
            )
        size = tensor.shape
        yield tensor


def _tensor(frame: VideoFrame, opened: OpenVideo) -> Tensor:
    rgb = opened.converter.reformat(frame, format="rgb24", threads=opened.threads)
    image = torch.from_numpy(rgb.to_ndarray())
    turned, upside_down, mirrored = _orientation(frame)
    if turned:
        image = image.transpose(0, 1)
    flips = [axis for axis, flip in enumerate((upside_down, mirrored)) if flip]
    return (image.flip(flips) if flips else image).permute(2, 0, 1)


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Of a frame's display matrix: are rows and columns exchanged, then is it flipped top to bottom, then left to right?

    The matrix holds (a b u c d v x y w): a point goes to (a x + c y, b x + d y).
    """
    data = frame.side_data.get("DISPLAYMATRIX")  # pyright: ignore[reportArgumentType] - names are keys, too
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("9i", bytes(data))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


def _exact(seconds: Fraction | float) -> Fraction:
    return Fraction(seconds).limit_denominator(1_000_000)
