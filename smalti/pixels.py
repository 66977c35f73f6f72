"""Conversions between 8-bit images and pixels.

Everywhere in Smalti, "pixels" are floating-point RGB values in [-1, 1].

Shapes: B batch, T frames, H, W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image


def pixels_to_uint8(pixels: Tensor) -> Tensor:
    """Convert pixels in [-1, 1] to uint8 in [0, 255]: clamp, then round to the nearest integer.

    Args:
        pixels: floating-point tensor of any shape.

    >>> pixels_to_uint8(torch.tensor([-1.5, -1.0, 0.0031, 1.0])).tolist()
    [0, 0, 128, 255]
    """
    return ((pixels.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


def uint8_to_pixels(images: Tensor) -> Tensor:
    """Convert uint8 in [0, 255] to float32 in [-1, 1]. `pixels_to_uint8` is the exact inverse.

    Args:
        images: uint8 tensor of any shape.

    >>> uint8_to_pixels(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
    [-1.0, 1.0]
    """
    # Divides by a tensor, because CUDA multiplies by the rounded reciprocal of a number: the result would differ by a bit.
    divisor = torch.full((), 127.5, device=images.device)
    return images.to(torch.float32, copy=True).div_(divisor).sub_(1)


def to_pixels(images: Tensor) -> Tensor:
    """Convert uint8 as `uint8_to_pixels`. Tensors of other types are returned unchanged."""
    return uint8_to_pixels(images) if images.dtype == torch.uint8 else images


def image_to_uint8(image: Image.Image) -> Tensor:
    """Convert an 8-bit RGB image to (3, H, W) uint8, channels-last in memory."""
    import numpy as np  # not torchvision's pil_to_tensor: importing torchvision takes as long as importing torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def image_to_pixels(image: Image.Image) -> Tensor:
    """Convert an 8-bit RGB image to (3, H, W) float32 in [-1, 1]."""
    return uint8_to_pixels(image_to_uint8(image))


def frames_as_images(x: Tensor) -> Tensor:
    """Reshape clips (B, C, T, H, W) to images (B T, C, H, W). Images are returned unchanged."""
    return x if x.ndim == 4 else x.transpose(1, 2).flatten(0, 1)
