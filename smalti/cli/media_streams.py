"""Encoding and decoding image and video files chunk by chunk. An image is treated as a video with one frame.

Shapes: T frames, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from smalti.cli.options import check_exists
from smalti.cli.outputs import FileKind
from smalti.errors import SmaltiError
from smalti.export.token_files import TokenFile
from smalti.folders import find_files
from smalti.images import IMAGE_SUFFIXES, load_image, writable_suffixes, write_image
from smalti.pixels import pixels_to_uint8, uint8_to_pixels
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Latents, Layout
from smalti.video import VIDEO_SUFFIXES, WRITABLE_SUFFIXES, probe, read_frames, write_video

if TYPE_CHECKING:
    from smalti.cli.progress import ProgressDisplay


IMAGE = FileKind("an image", ".png", writable_suffixes())
VIDEO = FileKind("a video", ".mp4", frozenset(WRITABLE_SUFFIXES))
TOKENS = FileKind("a token file", ".safetensors")


@dataclass(frozen=True)
class LatentStream:
    """The latents of an image or a video, computed during iteration.

    Attributes:
        latents: latents of consecutive parts of a video; for an image, one part whose `frames` is None.
        rate: frames per second; None for an image.
        frames: approximate number of frames, for the progress bar; None if the file does not state it.
    """

    latents: Iterator[Latents]
    rate: Fraction | None = None
    frames: int | None = 1


def find_media(source: Path) -> list[Path]:
    """Return the file itself, or all images and videos in a folder and its subfolders.

    Raises:
        SmaltiError: the path does not exist, or the folder contains no images or videos.
    """
    check_exists(source, "image, video or folder")
    files = find_files(source, IMAGE_SUFFIXES | VIDEO_SUFFIXES) if source.is_dir() else [source]
    if not files:
        raise SmaltiError(
            f"The folder {source} contains no images or videos: put .png, .jpg or .mp4 files into it or its subfolders."
        )
    return files


def media_kind(file: Path) -> FileKind:
    """Return whether a file is an image or a video, by its suffix."""
    return VIDEO if file.suffix.lower() in VIDEO_SUFFIXES else IMAGE


@dataclass(frozen=True)
class TimeRange:
    """The part of a video to encode.

    Attributes:
        start: time of its first frame in seconds; None for the start of the video.
        stop: its end in seconds, exclusive; None for the end of the video.

    Raises:
        SmaltiError: it is empty.
    """

    start: Fraction | None = None
    stop: Fraction | None = None

    def __post_init__(self) -> None:
        if self.stop is not None and self.stop <= (self.start or 0):
            raise SmaltiError(
                f"--stop is {float(self.stop):g} and --start is {float(self.start or 0):g}: give a later end than "
                "start, in seconds."
            )

    def check_video(self, file: Path) -> None:
        """Check that a file is a video, unless this is all of it.

        Raises:
            SmaltiError: it is an image.
        """
        if media_kind(file) is IMAGE and (self.start is not None or self.stop is not None):
            raise SmaltiError(f"{file} is an image, but --start and --stop are for videos: leave them out.")

    def duration(self, whole: Fraction | None) -> Fraction | None:
        """Return the duration of this part in seconds, given that of the whole video; None if it is not known."""
        ends = [end for end in (self.stop, whole) if end is not None]
        return max(Fraction(0), min(ends) - (self.start or 0)) if ends else None


def encode_file(
    tokenizer: Tokenizer,
    file: Path,
    rate: Fraction | None,
    part: TimeRange = TimeRange(),
) -> LatentStream:
    """Encode an image or a video file.

    Args:
        tokenizer: a tokenizer in evaluation mode.
        file: the image or the video.
        rate: frames per second at which a video is sampled by its timestamps; None to use every frame once, at the average
            frame rate of the file.
        part: the part of a video to encode.

    Raises:
        SmaltiError: here or during iteration: the file cannot be read, or the part has no frames.
    """
    weight = next(tokenizer.parameters())
    part.check_video(file)
    if media_kind(file) is IMAGE:
        return LatentStream(iter([tokenizer.encode(load_image(file).to(weight))]))
    info = probe(file)
    duration = part.duration(info.duration)
    if duration == 0:
        raise SmaltiError(
            f"{file} has no frames from {float(part.start or 0):g} s on: it ends after {float(info.duration or 0):g} "
            "s; give an earlier --start."
        )
    frames = None if duration is None else math.ceil(duration * (rate or info.rate))
    decoded = read_frames(file, rate=rate, start=part.start or 0, stop=part.stop)
    chunks = _stack_frames(_check_any(decoded, file, part), tokenizer.default_chunk(info.size))
    latents = tokenizer.encode_stream(uint8_to_pixels(chunk).to(weight) for chunk in chunks)
    whole = part == TimeRange()
    return LatentStream(latents, rate or info.rate, (info.frames or frames) if whole and not rate else frames)


def _check_any(frames: Iterator[Tensor], file: Path, part: TimeRange) -> Iterator[Tensor]:
    """Yield frames.

    Raises:
        SmaltiError: there are none.
    """
    first = next(frames, None)
    if first is None:
        end = "" if part.stop is None else f" and before {float(part.stop):g} s"
        raise SmaltiError(
            f"{file} has no frames from {float(part.start or 0):g} s on{end}: give another --start or --stop."
        )
    yield first
    del first  # the caller decides how long frames stay in memory
    yield from frames


def decode_tokens(tokenizer: Tokenizer, content: TokenFile) -> LatentStream:
    """Look up the latents of a token file, in parts of the same lengths as `encode_file` yields."""
    device = next(tokenizer.parameters()).device
    tokens = content.tokens
    parts = tokens.split_time(tokenizer.encoder.stride[0], tokenizer.default_chunk(tokens.size))
    latents = (tokenizer.dequantize(part.to(device)) for part in parts)
    return LatentStream(latents, content.rate, tokens.frames or 1)


def with_progress(stream: LatentStream, name: str, progress: ProgressDisplay) -> Iterator[Latents]:
    """Yield the latents of a stream. For a video, show the number of frames and the time left.

    Args:
        stream: the stream to iterate over.
        name: name of the file.
        progress: the display.
    """
    if stream.rate is None:
        yield from stream.latents
        return
    done = 0
    with progress.task(name, stream.frames, "frames") as update:
        for part in stream.latents:
            yield part
            done += part.frames or 1
            update(done)


def without_autocast(parts: Iterable[Latents], device: torch.device) -> Iterator[Latents]:
    """Yield latents that are computed outside of the autocast in which they are decoded."""
    iterator = iter(parts)
    while True:
        with torch.autocast(device.type, enabled=False):
            try:
                part = next(iterator)
            except StopIteration:
                return
        yield part


def write_media(
    tokenizer: Tokenizer, latents: Iterable[Latents], rate: Fraction | None, file: Path, seed: int
) -> Layout:
    """Decode latents chunk by chunk and write the image or the video atomically.

    Args:
        tokenizer: a tokenizer in evaluation mode.
        latents: latents of consecutive parts.
        rate: frames per second; None for an image.
        file: the image or the video to write.
        seed: seed for the noise of a generative decoder.

    Returns:
        The layout of the whole image or video.

    Raises:
        SmaltiError: a pixel is NaN or infinite, or the file cannot be written.
    """
    layouts: list[Layout] = []

    def record_layouts() -> Iterator[Latents]:
        for part in latents:
            layouts.append(part.layout())
            yield part

    decoded = tokenizer.decode_stream(record_layouts(), torch.Generator().manual_seed(seed))
    frames = (frame for part in decoded for frame in _to_uint8_frames(part))
    try:
        if rate is None:
            write_image(file, next(frames))
        else:
            write_video(file, frames, rate)
    except OSError as error:
        raise SmaltiError(f"{file} cannot be written ({error}): choose another --out.") from error
    return Layout.join_time(layouts)


def describe(tokenizer: Tokenizer, layout: Layout, rate: Fraction | None) -> str:
    """Describe an encoded image or video: frames, size, and tokens or channels per latent position.

    For a discrete tokenizer, the bits per pixel are computed from the actual size and number of positions.

    Args:
        tokenizer: the tokenizer that encoded it.
        layout: layout of the encoded image or video.
        rate: frames per second; None for an image.
    """
    height, width = layout.size
    frames = "" if rate is None else f"{layout.frames} frames at {float(rate):.5g} fps, "
    size = f"{frames}{width} x {height} pixels, {layout.positions} positions x"
    if not tokenizer.discrete:
        return f"{size} {tokenizer.bottleneck.out_dim} channels"
    quantizer = tokenizer.quantizer
    bits = layout.positions * quantizer.bits_per_position / ((layout.frames or 1) * height * width)
    return f"{size} {quantizer.tokens_per_position} tokens, {bits:.3g} bits per pixel"


def _stack_frames(frames: Iterator[Tensor], chunk: int) -> Iterator[Tensor]:
    """Stack frames to chunks (1, 3, T, H, W): frame 0 alone, as causal networks encode it, then up to `chunk` frames."""
    length = 1
    while part := list(islice(frames, length)):
        yield torch.stack(part, dim=1)[None]
        length = chunk


def _to_uint8_frames(pixels: Tensor) -> tuple[Tensor, ...]:
    """Convert (1, 3, T, H, W) in [-1, 1] to T frames (3, H, W) uint8.

    Raises:
        SmaltiError: a pixel is NaN or infinite.
    """
    if not pixels.isfinite().all():
        raise SmaltiError(
            "The decoder returned NaN or infinite pixels: check the tokenizer's weights, and whether activations overflow "
            f"in {pixels.dtype}."
        )
    return pixels_to_uint8(pixels)[0].cpu().unbind(1)
