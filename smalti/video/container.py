"""Opening video files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smalti.errors import MissingExtraError, SmaltiError, UnreadableError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream


Video = str | os.PathLike[str] | bytes
"""A path, or the bytes of a file."""

VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".vob", ".m2ts", ".mts"),
        *(".wmv", ".flv", ".ogv", ".3gp", ".y4m"),
    )
)
"""Suffixes of files that are treated as videos, in lower case."""


class UnreadableVideoError(UnreadableError):
    """A file, or the bytes of a file, is not a complete video."""

    kind = "a video"


def normalize_frame_rate(rate: Fraction | float) -> Fraction:
    """Convert a frame rate to an exact fraction with a denominator of at most 1001: 29.97003 becomes 30000/1001.

    Args:
        rate: frames per second.

    Raises:
        SmaltiError: the rate is not a positive finite number.
    """
    try:
        exact = Fraction(rate).limit_denominator(1001)
    except (OverflowError, ValueError):  # infinite or NaN
        exact = Fraction(0)
    if exact <= 0:
        raise SmaltiError(f"rate is {rate}: give a number of frames per second greater than 0.")
    return exact


@dataclass
class OpenVideo:
    """An open container and its video stream.

    Attributes:
        name: path of the file, or a description of the bytes, for error messages.
        container: the container that PyAV opened.
        stream: the video stream.
        converter: converts frames to RGB. One for all frames, because its setup is slow.
        threads: number of threads for decoding and conversion; 0 lets FFmpeg choose.
    """

    name: str
    container: InputContainer
    stream: VideoStream
    converter: VideoReformatter
    threads: int

    @property
    def time_base(self) -> Fraction:
        """Unit of the timestamps, in seconds."""
        return self.stream.time_base or Fraction(1, 1000)

    @property
    def tolerance(self) -> Fraction:
        """Maximum rounding error of timestamps, in seconds: half a unit.

        It is at most half a millisecond: if a unit is as long as a frame, timestamps are exact.
        """
        return min(self.time_base, Fraction(1, 1000)) / 2

    @property
    def start_pts(self) -> int:
        """Timestamp of time 0, in units of `time_base`."""
        return self.stream.start_time or 0

    @property
    def rate(self) -> Fraction:
        """Average frame rate, in frames per second.

        Raises:
            UnreadableVideoError: the file specifies no frame rate.
        """
        rate = self.stream.average_rate or self.stream.guessed_rate
        if not rate:
            raise UnreadableVideoError(self.name, "it specifies no frame rate")
        return rate

    @property
    def duration(self) -> Fraction | None:
        """Duration in seconds; None if the file does not specify it."""
        if self.stream.duration:
            return self.stream.duration * self.time_base
        # The duration of the whole file may be that of its audio stream, which is a little longer.
        return Fraction(self.container.duration, 1_000_000) if self.container.duration else None


@contextmanager
def open_video(video: Video, threads: int = 0) -> Iterator[OpenVideo]:
    """Open a video. Any FFmpeg error inside the block is raised as an UnreadableVideoError.

    Args:
        video: a path, or the bytes of a file.
        threads: number of threads for decoding and conversion; 0 lets FFmpeg choose.

    Raises:
        UnreadableVideoError: the file is missing, damaged, not a video, or has audio only.
        MissingExtraError: PyAV is not installed.
    """
    av = import_av()
    name = "The video" if isinstance(video, bytes) else os.fspath(video)
    file = io.BytesIO(video) if isinstance(video, bytes) else str(Path(video))
    try:
        with av.open(file, metadata_errors="replace") as container:
            stream = next((stream for stream in container.streams.video if not _is_cover_art(stream)), None)
            if stream is None:
                raise UnreadableVideoError(name, "it has no video stream")
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = threads
            yield OpenVideo(name, container, stream, av.video.reformatter.VideoReformatter(), threads)
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableVideoError(name, _describe(error)) from error


def import_av() -> Any:
    """Import and return PyAV.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video", "Videos") from None
    return av


def _is_cover_art(stream: VideoStream) -> bool:
    """Return whether a stream is the cover picture of an audio file."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _describe(error: Exception) -> str:
    """Return the message of an FFmpeg error on one line, without its error number."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")
