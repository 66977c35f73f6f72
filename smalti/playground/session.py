"""What the page computes for one image or clip, without any user interface.

Shapes: T frames, H, W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from smalti.eval.nominal_bits import bits_per_position, counting
from smalti.images import load_image
from smalti.pixels import pixels_to_uint8, uint8_to_pixels
from smalti.playground.token_picture import token_picture
from smalti.tokenizers.tokenizer import Tokenizer, get_tokens
from smalti.types import Latents, TokenGrid
from smalti.video import VIDEO_SUFFIXES, probe, read_frames

MAX_FRAMES = 49
"""Frames of a clip that are used: enough for two seconds, few enough for a CPU."""

MAX_SIZE = 512
"""Maximum height or width in pixels; larger samples are reduced."""


@dataclass(frozen=True)
class Sample:
    """An image or a clip.

    Attributes:
        pixels: (1, 3, H, W) or (1, 3, T, H, W) in [-1, 1].
        rate: frames per second of a clip; None for an image.
    """

    pixels: Tensor
    rate: Fraction | None = None


@dataclass(frozen=True)
class Result:
    """What the page shows.

    Attributes:
        original: frames (T, 3, H, W) uint8.
        reconstruction: frames (T, 3, H, W) uint8.
        difference: frames (T, 3, H, W) uint8, four times the absolute difference.
        picture: tokens or latents as a picture, (3, h, w) uint8.
        summary: size, tokens, bits and ratio, PSNR, in one paragraph.
        content: tokens, or the latents of a continuous tokenizer.
    """

    original: Tensor
    reconstruction: Tensor
    difference: Tensor
    picture: Tensor
    summary: str
    content: TokenGrid | Latents


def read_sample(file: Path) -> Sample:
    """Read an image, or the first frames of a clip, reduced to at most `MAX_SIZE` pixels.

    Raises:
        SmaltiError: the file cannot be read.
    """
    if file.suffix.lower() not in VIDEO_SUFFIXES:
        return Sample(_reduce(load_image(file)))
    frames = torch.stack(list(islice(read_frames(file), MAX_FRAMES)))
    pixels = _reduce(uint8_to_pixels(frames))
    return Sample(pixels.transpose(0, 1)[None], probe(file).rate)


@torch.inference_mode()
def encode(tokenizer: Tokenizer, sample: Sample) -> TokenGrid | Latents:
    """Encode a sample to tokens, or to latents if the tokenizer is continuous."""
    latents = tokenizer.encode(sample.pixels.to(next(tokenizer.parameters())))
    return get_tokens(latents) if tokenizer.discrete else latents


@torch.inference_mode()
def show(tokenizer: Tokenizer, sample: Sample, content: TokenGrid | Latents, seed: int = 0) -> Result:
    """Decode tokens or latents of a sample, edited or not, and compare them with the sample.

    Raises:
        SmaltiError: an id is out of range.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(content, TokenGrid):
        pixels = tokenizer.detokenize(content, generator)
    else:
        pixels = tokenizer.decode(content, generator)
    original, reconstruction = (_to_frames(x.float().cpu()) for x in (sample.pixels, pixels))
    difference = ((original.int() - reconstruction.int()).abs() * 4).clamp(max=255).to(torch.uint8)
    summary = _summarize(tokenizer, content, original, reconstruction)
    return Result(original, reconstruction, difference, token_picture(content), summary, content)


def _summarize(tokenizer: Tokenizer, content: TokenGrid | Latents, original: Tensor, reconstruction: Tensor) -> str:
    height, width = content.size
    frames = content.frames or 1
    clip = "" if content.frames is None else f"{frames} frames of "
    error = (original.double() - reconstruction.double()).square().mean() / 255**2
    psnr = f"PSNR {-10 * float(error.clamp_min(1e-12).log10()):.2f} dB"
    bits = content.positions * bits_per_position(tokenizer)
    ratio = 24 * frames * height * width / bits
    per_position = (
        f"{tokenizer.quantizer.tokens_per_position} tokens of {tokenizer.quantizer.codebook_size:,} values"
        if tokenizer.discrete
        else f"{tokenizer.bottleneck.out_dim} channels"
    )
    return (
        f"{clip}{width} x {height} pixels, {content.positions:,} positions x {per_position}: {bits:,.0f} bits "
        f"({counting(tokenizer)}), "
        f"{bits / (frames * height * width):.3g} bits per pixel, 1/{ratio:.4g} of 24-bit RGB. {psnr}."
    )


def _reduce(pixels: Tensor) -> Tensor:
    """Reduce (N, 3, H, W) so that neither side exceeds `MAX_SIZE`."""
    scale = MAX_SIZE / max(pixels.shape[2:])
    if scale >= 1:
        return pixels
    size = [max(1, round(side * scale)) for side in pixels.shape[2:]]
    return torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)


def _to_frames(pixels: Tensor) -> Tensor:
    """Convert (1, 3, H, W) or (1, 3, T, H, W) in [-1, 1] to (T, 3, H, W) uint8."""
    frames = pixels_to_uint8(pixels)
    return frames if frames.ndim == 4 else frames[0].transpose(0, 1)
