"""Convolutions over space and time that never look ahead, and go on from chunk to chunk of a clip.

Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SLOW_PATH_SIZE = 20480
"""Channels x frames x rows up to which PyTorch 2 takes its slow path for a single clip on a CPU."""


def per_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer of images, (B T, C, H, W) to the same, on each frame of (B, C, T, H, W)."""
    return _as_video(layer(_as_images(x.permute(0, 2, 3, 4, 1))), x.shape[0])


def _as_images(frames: Tensor) -> Tensor:
    """(B, T, H, W, C) to (B T, C, H, W) in PyTorch's memory format channels_last, without a copy where it has that order.

    The detour over one axis gives a single image the strides by which PyTorch knows the format.
    """
    return frames.flatten().view(-1, *frames.shape[2:]).permute(0, 3, 1, 2)


def _as_video(images: Tensor, batch: int) -> Tensor:
    """(B T, C, H, W) to (B, C, T, H, W)."""
    return images.unflatten(0, (batch, -1)).transpose(1, 2)


def convolve(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """conv(x), around PyTorch's slow path on CPUs.

    PyTorch convolves a single small clip by a plain matrix product, which takes up to eight times as long as oneDNN. Its
    frames as a batch of images, with the frames that the kernel sees beside each other as channels, go to oneDNN. That also
    gives chunks the same bits as the whole clip; so it is done for very few positions too, where it is the slower one.

    Args:
        conv: without padding in time, padded by half its kernel in space.
        x: (B, C, T, H, W).
    """
    taps, (stride, rows, columns) = conv.kernel_size[0], conv.stride
    steps = (x.shape[2] - taps) // stride + 1
    if x.device.type != "cpu" or x.shape[0] > 1 or math.prod(x.shape[1:4]) > _SLOW_PATH_SIZE:
        return nn.Conv3d.forward(conv, x)
    frames = x.permute(0, 2, 3, 4, 1)
    seen = [frames[:, tap : tap + stride * (steps - 1) + 1 : stride] for tap in range(taps)]
    images = _as_images(torch.cat(seen, dim=-1))
    border = conv.kernel_size[1] // 2
    weight = conv.weight.transpose(1, 2).flatten(1, 2)  # (out, 3 C, k, k), in the order of `seen`
    if conv.padding_mode != "zeros":
        images, border = F.pad(images, (border, border, border, border), mode=conv.padding_mode), 0
    return _as_video(F.conv2d(images, weight, conv.bias, (rows, columns), padding=(border, border)), x.shape[0])
