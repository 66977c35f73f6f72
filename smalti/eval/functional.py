"""Metrics of pairs of images, pure functions on 8-bit pixels.

What a viewer sees is 8 bits a channel, so reconstructions are rounded before anything is measured.

Shapes: B batch, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.pixels import pixels_to_uint8, uint8_to_pixels

PSNR_CEILING = 100.0
"""dB that equal images get, whose PSNR would be infinite; flat images are reconstructed exactly now and then."""


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each pair, over all channels and pixels.

    Args:
        x: (B, 3, H, W) uint8.
        y: the same.

    Returns:
        (B,) float64, exact to the last digits however large the images are.
    """
    _check(x, y)
    return (x.int() - y.int()).square().flatten(1).sum(1, dtype=torch.int64).double() / x[0].numel()


def decibels(squared: Tensor) -> Tensor:
    """Mean squared errors of 8-bit pixels as PSNR, 10 log10(255^2 / MSE); at most `PSNR_CEILING`.

    >>> decibels(torch.tensor([1.0, 0.0], dtype=torch.float64)).round(decimals=2).tolist()
    [48.13, 100.0]
    """
    return (10 * (255.0**2 / squared).log10()).clamp(max=PSNR_CEILING)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair in dB: `decibels` of `squared_error`.

    Args:
        x: (B, 3, H, W) uint8.
        y: the same.

    Returns:
        (B,) float64, at most `PSNR_CEILING`.

    >>> x = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> psnr(x, x + 1).round(decimals=2).tolist()
    [48.13]
    """
    return decibels(squared_error(x, y))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of each pair (Wang et al. 2004, IEEE TIP 13(4), eq. 13), by torchmetrics.

    Gaussian window 11 x 11 with sigma 1.5, k1 0.01, k2 0.03, range 255, mirrored at the border; each of R, G and B by
    itself, then the mean. Implementations that crop the border or look at luminance give other numbers.

    Args:
        x: (B, 3, H, W) uint8, H and W at least 6.
        y: the same.

    Returns:
        (B,) float32, at most 1.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check(x, y)
    with full_precision(x.device):
        return torch.as_tensor(
            structural_similarity_index_measure(x.float(), y.float(), data_range=255.0, reduction="none")
        ).reshape(-1)


def bicubic(images: Tensor, factor: tuple[int, int]) -> Tensor:
    """The baseline: images made smaller by `factor`, kept at 8 bits, and made larger again; both antialiased bicubic.

    Args:
        images: (B, 3, H, W) uint8.
        factor: down-sampling along (H, W); sizes are rounded up, as a tokenizer's padding does.

    Returns:
        (B, 3, H, W) uint8.
    """
    height, width = images.shape[2:]
    small = (-(-height // factor[0]), -(-width // factor[1]))
    thumbnail = F.interpolate(uint8_to_pixels(images), size=small, mode="bicubic", antialias=True)
    restored = F.interpolate(uint8_to_pixels(pixels_to_uint8(thumbnail)), size=(height, width), mode="bicubic", antialias=True)
    return pixels_to_uint8(restored)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Convolutions in full float32: no autocast, and no TF32 on NVIDIA devices.

    TF32 keeps 10 bits; SSIM's variances are differences of numbers near 255^2, of which it would leave nothing.
    """
    cudnn = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with cudnn, torch.autocast(device.type, enabled=False):
        yield


def _check(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape or x.ndim != 4 or x.dtype != torch.uint8 or y.dtype != torch.uint8:
        raise ValueError(
            f"Metrics compare two uint8 (B, 3, H, W), not {x.dtype} {tuple(x.shape)} and {y.dtype} {tuple(y.shape)}."
        )
