"""Images and videos on their way through a tokenizer, chunk by chunk; an image is a video of one frame.

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
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from smalti.cli.outputs import FileKind
from smalti.data import decode_image
from smalti.data.folders import IMAGE_SUFFIXES, find_files
from smalti.errors import SmaltiError
from smalti.export.token_files import TokenFile
from smalti.files import atomic_write
from smalti.pixels import pixels_to_uint8, uint8_to_pixels
from smalti.tokenizers.tokenizer import DEFAULT_CHUNK, Tokenizer
from smalti.types import Latents, Layout
from smalti.video import VIDEO_SUFFIXES, WRITTEN_SUFFIXES, probe, read_frames, write_video

if TYPE_CHECKING:
    from rich.progress import Progress



def _writable() -> frozenset[str]:
    """The suffixes of the formats that Pillow writes."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in Image.SAVE)


IMAGE = FileKind("an image", ".png", _writable())
VIDEO = FileKind("a video", ".mp4", frozenset(WRITTEN_SUFFIXES))
TOKENS = FileKind("a token file", ".safetensors")


@dataclass(frozen=True)
class Stream:
    """An image or a video, encoded as it is asked for.

    Attributes:
        latents: of consecutive parts; of an image, one, whose `frames` is None.
        rate: frames a second; None: an image.
        frames: about how many there are, for progress; None: the file does not say.
    """

    latents: Iterator[Latents]
    rate: Fraction | None = None
    frames: int | None = 1


def find_media(source: Path) -> list[Path]:
    """The file itself, or all images and videos below a folder.

    Raises:
        SmaltiError: the folder holds none.
    """
    files = find_files(source, IMAGE_SUFFIXES | VIDEO_SUFFIXES) if source.is_dir() else [source]
    if not files:
        raise SmaltiError(
            f"The folder {source} holds no images or videos: put .png, .jpg or .mp4 files in or below it."
        )
    return files


def kind_of(file: Path) -> FileKind:
    """What comes out of an image or a video file: the same."""
    return VIDEO if file.suffix.lower() in VIDEO_SUFFIXES else IMAGE


def encode_file(tokenizer: Tokenizer, file: Path, rate: Fraction | None) -> Stream:
    """An image or a video file as a stream of its latents.

    Args:
        tokenizer: in evaluation mode.
        file: the image or the video.
        rate: frames a second at which a video is sampled by its timestamps; None: every frame as it is, once, and the
            file's average rate.

    Raises:
        SmaltiError: here or later, when it is met: the file cannot be read.
    """
    weight = next(tokenizer.parameters())
    if kind_of(file) is IMAGE:
        pixels = uint8_to_pixels(pil_to_tensor(decode_image(file))[None])
        return Stream(iter([tokenizer.encode(pixels.to(weight))]))
    info = probe(file)
    frames = None if info.duration is None else math.ceil(info.duration * (rate or info.rate))
    chunks = _chunks(read_frames(file, rate=rate), _chunk(tokenizer))
    latents = tokenizer.encode_stream(uint8_to_pixels(chunk).to(weight) for chunk in chunks)
    return Stream(latents, rate or info.rate, frames if rate else info.frames or frames)


def decode_tokens(tokenizer: Tokenizer, content: TokenFile) -> Stream:
    """A token file as a stream of its latents, in the parts in which `encoded` gives them."""
    device = next(tokenizer.parameters()).device
    parts = content.tokens.split_time(tokenizer.encoder.stride[0], _chunk(tokenizer))
    latents = (tokenizer.dequantize(part.to(device)) for part in parts)
    return Stream(latents, content.rate, content.tokens.frames or 1)


def with_progress(stream: Stream, name: str, progress: Progress) -> Iterator[Latents]:
    """The latents of a stream; of a video, with a bar that tells the time left."""
    if stream.rate is None:
        yield from stream.latents
        return
    task = progress.add_task(name, total=stream.frames)
    try:
        for part in stream.latents:
            yield part
            progress.advance(task, part.frames or 1)
    finally:
        progress.remove_task(task)


def write_media(tokenizer: Tokenizer, latents: Iterable[Latents], rate: Fraction | None, file: Path, seed: int) -> Layout:
    """Decode a stream and write it, chunk by chunk, whole or not at all.

    Args:
        tokenizer: in evaluation mode.
        latents: of consecutive parts.
        rate: frames a second; None: an image.
        file: the image or the video to write.
        seed: of a generative decoder's noise.

    Returns:
        The layout of the whole.

    Raises:
        SmaltiError: the pixels are not finite, or the file cannot be written.
    """
    layouts: list[Layout] = []

    def passing() -> Iterator[Latents]:
        for part in latents:
            layouts.append(part.layout())
            yield part

    decoded = tokenizer.decode_stream(passing(), torch.Generator().manual_seed(seed))
    frames = (frame for part in decoded for frame in _eight_bits(part))
    try:
        if rate is None:
            _write_image(next(frames), file)
        else:
            write_video(file, frames, rate)
    except OSError as error:
        raise SmaltiError(f"{file} cannot be written ({error}): choose another --out.") from error
    return Layout.join_time(layouts)


def describe(tokenizer: Tokenizer, layout: Layout, rate: Fraction | None) -> str:
    """Frames, size, positions and what each holds, and of a discrete tokenizer the true bits a pixel."""
    height, width = layout.size
    film = "" if rate is None else f"{layout.frames} frames at {float(rate):.5g} a second, "
    start = f"{film}{width} x {height} pixels, {layout.positions} positions x"
    if not tokenizer.discrete:
        return f"{start} {tokenizer.bottleneck.out_dim} channels"
    quantizer = tokenizer.quantizer
    bits = layout.positions * quantizer.bits_per_position / ((layout.frames or 1) * height * width)
    return f"{start} {quantizer.tokens_per_position} tokens, {bits:.3g} bits a pixel"


def _chunk(tokenizer: Tokenizer) -> int:
    """Frames that are coded at a time: a multiple of the stride."""
    stride = tokenizer.encoder.stride[0]
    return -(-DEFAULT_CHUNK // stride) * stride


def _chunks(frames: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Frame 0 alone, as causal networks code it, then `size` frames at a time, as (1, 3, T, H, W)."""
    many = 1
    while chunk := list(islice(frames, many)):
        yield torch.stack(chunk, dim=1)[None]
        many = size


def _eight_bits(pixels: Tensor) -> tuple[Tensor, ...]:
    """(1, 3, T, H, W) in [-1, 1] to T frames (3, H, W) uint8.

    Raises:
        SmaltiError: a pixel is not finite.
    """
    if not pixels.isfinite().all():
        raise SmaltiError(
            f"The tokenizer's pixels are not finite: its weights are damaged, or {pixels.dtype} is too small a type for it."
        )
    return pixels_to_uint8(pixels)[0].cpu().unbind(1)


def _write_image(frame: Tensor, file: Path) -> None:
    with atomic_write(file) as partial:
        Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).save(partial)
