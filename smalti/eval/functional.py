"""Metrics as pure functions of 8-bit images and clips, and of pixels with other channels than red, green and blue.

Displays show 8 bits per channel, so reconstructions of photos are rounded to 8 bits before anything is measured. Other
channels have more than 8 bits and are not rounded.

Shapes: B batch; C channels; T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

PSNR_CEILING = 100.0
"""PSNR of identical images in dB. By definition it is infinite, and flat images are sometimes reconstructed exactly."""


def mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error of each pair of images, over all channels and pixels.

    Args:
        x: (B, C, H, W) uint8, or floating point in [-1, 1], which is clamped.
        y: like `x`.

    Returns:
        (B,) float64, on the scale of 8-bit pixels. The sum of uint8 is computed in integers, so it is exact for images of
        any size.
    """
    _check_images(x, y)
    if x.is_floating_point():
        error = (x.double().clamp(-1, 1) - y.double().clamp(-1, 1)) * 127.5
        return error.square().flatten(1).mean(1)
    return (x.int() - y.int()).square().flatten(1).sum(1, dtype=torch.int64).double() / x[0].numel()


def decibels(mse: Tensor) -> Tensor:
    """Convert mean squared errors of 8-bit pixels to PSNR, 10 log10(255^2 / MSE), at most `PSNR_CEILING`.

    >>> decibels(torch.tensor([1.0, 0.0], dtype=torch.float64)).round(decimals=2).tolist()
    [48.13, 100.0]
    """
    return (10 * (255.0**2 / mse).log10()).clamp(max=PSNR_CEILING)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair of images in dB.

    Args:
        x: (B, C, H, W) uint8, or floating point in [-1, 1], which is clamped.
        y: like `x`.

    Returns:
        (B,) float64, at most `PSNR_CEILING`.

    >>> x = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> psnr(x, x + 1).round(decimals=2).tolist()
    [48.13]
    >>> psnr(torch.zeros(1, 5, 8, 8), torch.full((1, 5, 8, 8), 0.02)).round(decimals=2).tolist()
    [40.0]
    """
    return decibels(mean_squared_error(x, y))


def psnr_clip(x: Tensor, y: Tensor) -> Tensor:
    """Return the PSNR of each pair of clips in dB, from the squared error over all frames.

    Args:
        x: (B, 3, T, H, W) uint8.
        y: (B, 3, T, H, W) uint8.

    Returns:
        (B,) float64, at most `PSNR_CEILING`. Never above the mean PSNR of the frames.
    """
    return decibels(mean_over_frames(mean_squared_error, x, y))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the structural similarity of each pair of images (Wang et al. 2004, IEEE TIP 13(4), eq. 13), by torchmetrics.

    Gaussian window 11 x 11 with sigma 1.5, k1 = 0.01, k2 = 0.03, data range 255, reflection padding; computed for each
    channel separately and averaged. Implementations that crop the border or use luminance give other values.

    Args:
        x: (B, C, H, W) uint8, or floating point in [-1, 1], which is clamped; H and W at least 6.
        y: like `x`.

    Returns:
        (B,) float32, at most 1.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check_images(x, y)
    if x.is_floating_point():
        x, y = ((z.float().clamp(-1, 1) + 1) * 127.5 for z in (x, y))
    with full_precision(x.device):
        return torch.as_tensor(
            structural_similarity_index_measure(x.float(), y.float(), data_range=255.0, reduction="none")
        ).reshape(-1)


def mean_over_frames(measure: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Apply a metric of images to each frame of clips and average over the frames. An image is a clip of one frame.

    Args:
        measure: a metric of two (B, C, H, W) that returns (B,).
        x: (B, C, H, W) or (B, C, T, H, W).
        y: like `x`.

    Returns:
        (B,) float64.

    Raises:
        ValueError: the shapes differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"The two samples differ in shape: {tuple(x.shape)} and {tuple(y.shape)}.")
    pairs = zip(unbind_frames(x), unbind_frames(y), strict=True)
    return torch.stack([measure(a, b).double() for a, b in pairs], dim=1).mean(1)


def unbind_frames(samples: Tensor) -> tuple[Tensor, ...]:
    """Return the frames (B, C, H, W) of clips (B, C, T, H, W); for images, the images."""
    return samples.unbind(2) if samples.ndim == 5 else (samples,)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Run convolutions in full float32: disable autocast, and TF32 on NVIDIA GPUs.

    TF32 has a precision of 10 bits. The variances in SSIM are differences of numbers near 255^2, too small for that.
    """
    cudnn = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with cudnn, torch.autocast(device.type, enabled=False):
        yield


def _check_images(x: Tensor, y: Tensor) -> None:
    kinds = {z.dtype if z.dtype == torch.uint8 else z.is_floating_point() for z in (x, y)}
    if x.shape != y.shape or x.ndim != 4 or kinds not in ({torch.uint8}, {True}):
        raise ValueError(
            "The metric compares two (B, C, H, W), both uint8 or both floating point, not "
            f"{x.dtype} {tuple(x.shape)} and {y.dtype} {tuple(y.shape)}."
        )
