"""Conversions between videos and batches of images, for 2-D layers in video networks.

Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def video_to_images(x: Tensor) -> Tensor:
    """Reshape a video (B, C, T, H, W) to images (B T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def images_to_video(images: Tensor, batch: int) -> Tensor:
    """Reshape images (B T, C, H, W) to a video (B, C, T, H, W), where `batch` is B."""
    return images.unflatten(0, (batch, -1)).transpose(1, 2)


def channels_last_images(frames: Tensor) -> Tensor:
    """Reshape (B, T, H, W, C) to images (B T, C, H, W) in PyTorch's channels_last memory format.

    A tensor that is contiguous in this order is not copied.
    """
    # Flattening first gives even a single image the strides by which PyTorch recognizes the memory format.
    return frames.flatten().view(-1, *frames.shape[2:]).permute(0, 3, 1, 2)


def channels_last_video(x: Tensor) -> Tensor:
    """Return a video (B, C, T, H, W) in PyTorch's channels_last_3d memory format, in which networks are fastest.

    An exported graph keeps the plain format, for which its dynamic shapes remain simple expressions.
    """
    return x if torch.compiler.is_exporting() else x.contiguous(memory_format=torch.channels_last_3d)


def apply_per_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a 2-D layer to each frame of a video.

    Args:
        layer: maps (N, C, H, W) to (N, C', H', W').
        x: (B, C, T, H, W).

    Returns:
        (B, C', T, H', W').
    """
    images = video_to_images(x) if torch.compiler.is_exporting() else channels_last_images(x.permute(0, 2, 3, 4, 1))
    return images_to_video(layer(images), x.shape[0])
