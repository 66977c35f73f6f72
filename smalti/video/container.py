"""Opening video files, and what is wrong with those that cannot be opened."""

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
        *(".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".m2ts", ".mts"),
        *(".wmv", ".flv", ".ogv", ".3gp", ".y4m"),
    )
)
"""File names that are taken for videos, whatever their case."""


class UnreadableVideoError(UnreadableError):
    """A file, or the bytes of one, that holds no whole video."""

    kind = "a video"


def as_rate(rate: Fraction | float) -> Fraction:
    """A frame rate as the fraction that is meant: 29.97003 is 30000/1001.

    Raises:
        SmaltiError: it is not a positive number.
    """
    try:
        exact = Fraction(rate).limit_denominator(1001)
    except (OverflowError, ValueError):  # infinite, not a number
        exact = Fraction(0)
    if exact <= 0:
        raise SmaltiError(f"rate is {rate}: give frames a second, more than 0.")
    return exact


@dataclass
class OpenVideo:
    """An open container, its picture stream, and what converts its frames (one for all: it is slow to set up)."""

    name: str
    container: InputContainer
    stream: VideoStream
    converter: VideoReformatter
    threads: int

    @property
    def tick(self) -> Fraction:
        """Seconds of a unit of the timestamps."""
        return self.stream.time_base or Fraction(1, 1000)

    @property
    def tolerance(self) -> Fraction:
        """Half of what timestamps were rounded to; coarse units, of a frame each, are exact."""
        return min(self.tick, Fraction(1, 1000)) / 2

    @property
    def origin(self) -> int:
        """The timestamp of time 0."""
        return self.stream.start_time or 0

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average."""
        rate = self.stream.average_rate or self.stream.guessed_rate
        if not rate:
            raise UnreadableVideoError(self.name, "it states no frame rate")
        return rate

    @property
    def duration(self) -> Fraction | None:
        """Seconds, if the file says."""
        if self.stream.duration:
            return self.stream.duration * self.tick
        # The whole file's, which may be that of its sound, a little longer.
        return Fraction(self.container.duration, 1_000_000) if self.container.duration else None


@contextmanager
def open_video(video: Video, threads: int = 0) -> Iterator[OpenVideo]:
    """Open a video; whatever FFmpeg finds wrong inside the block leaves it as an UnreadableVideoError."""
    av = import_av()
    name = "The video" if isinstance(video, bytes) else os.fspath(video)
    file = io.BytesIO(video) if isinstance(video, bytes) else str(Path(video))
    try:
        with av.open(file, metadata_errors="replace") as container:
            stream = next((stream for stream in container.streams.video if not _is_cover(stream)), None)
            if stream is None:
                raise UnreadableVideoError(name, "it has no moving picture")
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = threads
            yield OpenVideo(name, container, stream, av.video.reformatter.VideoReformatter(), threads)
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableVideoError(name, _reason(error)) from error


def import_av() -> Any:
    """PyAV.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video", "Videos") from None
    return av


def _is_cover(stream: VideoStream) -> bool:
    """A picture that belongs to a piece of music."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")
