"""Samples as clips: metrics of images carried over to frames, and the baseline.

An image is a clip of one frame, and takes the same way. Everything goes frame by frame, so that a long clip takes no more
memory than a short one beside its own pixels.

Shapes: B batch, T frames, H, W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smalti.eval.feature_networks.perceptual import PerceptualNetwork
from smalti.eval.functional import bicubic, decibels, squared_error, ssim
from smalti.pixels import pixels_to_uint8, uint8_to_pixels


def compare(original: Tensor, restored: Tensor, perceptual: PerceptualNetwork | None = None) -> dict[str, Tensor]:
    """Metrics of each pair by name.

    - psnr: the mean over frames of the PSNR of a frame, VidTok's way (arXiv 2412.13061); never below the next.
    - psnr_clip: the PSNR of the squared error over all frames, TokenBench's way (arXiv 2501.03575); of clips alone.
    - ssim, and the perceptual network's metric: the mean over frames.

    Args:
        original: (B, 3, H, W) or (B, 3, T, H, W) uint8.
        restored: the same.
        perceptual: left out if None.

    Returns:
        One (B,) float64 a metric.
    """
    if original.shape != restored.shape:
        raise ValueError(f"A pair differs in shape: {tuple(original.shape)} and {tuple(restored.shape)}.")
    rows = [_compare_frames(x, y, perceptual) for x, y in zip(_frames(original), _frames(restored), strict=True)]
    over_frames = {name: torch.stack([row[name].double() for row in rows], dim=1) for name in rows[0]}
    squared = over_frames.pop("squared_error")
    values = {"psnr": decibels(squared).mean(1)}
    if original.ndim == 5:
        values["psnr_clip"] = decibels(squared.mean(1))
    return values | {name: frames.mean(1) for name, frames in over_frames.items()}


def baseline(samples: Tensor, factor: tuple[int, int, int]) -> Tensor:
    """What a code must beat: fewer frames, made smaller, kept at 8 bits, and brought back.

    Of a clip, frames 0, t, 2 t, ... are kept, t = factor[0]; those between are interpolated linearly, those after the last
    repeat it. So 1 + k t frames keep their first and their last, as a causal tokenizer's positions do. Frames that are kept
    become smaller and larger by `bicubic`.

    Args:
        samples: (B, 3, H, W) or (B, 3, T, H, W) uint8.
        factor: of (T, H, W); numbers are rounded up, as a tokenizer's padding does.

    Returns:
        The same shape, uint8.
    """
    frames = _frames(samples)
    kept = [bicubic(frame, factor[1:]) for frame in frames[:: factor[0]]]
    restored = [_between(kept, index / factor[0]) for index in range(len(frames))]
    return torch.stack(restored, dim=2) if samples.ndim == 5 else restored[0]


def kept_pixels(samples: Tensor, factor: tuple[int, int, int]) -> int:
    """Pixels of all samples that `baseline` keeps."""
    sizes = (len(_frames(samples)), *samples.shape[-2:])
    return len(samples) * math.prod(-(-size // f) for size, f in zip(sizes, factor, strict=True))


def _frames(samples: Tensor) -> tuple[Tensor, ...]:
    """Each frame (B, 3, H, W); an image's is itself."""
    return samples.unbind(2) if samples.ndim == 5 else (samples,)


def _compare_frames(x: Tensor, y: Tensor, perceptual: PerceptualNetwork | None) -> dict[str, Tensor]:
    """(B,) a metric of two frames (B, 3, H, W) uint8."""
    values = {"squared_error": squared_error(x, y), "ssim": ssim(x, y)}
    if perceptual is not None:
        values[perceptual.metric] = perceptual(uint8_to_pixels(x), uint8_to_pixels(y))
    return values


def _between(kept: list[Tensor], place: float) -> Tensor:
    """The frame at `place`, counted in kept frames."""
    before = kept[int(place)]
    after = kept[min(int(place) + 1, len(kept) - 1)]
    if place == int(place):
        return before
    return pixels_to_uint8(uint8_to_pixels(before).lerp(uint8_to_pixels(after), place - int(place)))
