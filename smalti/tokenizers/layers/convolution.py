"""A fast path for 3-D convolutions on CPUs.

Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.layers.frames import channels_last_images, images_to_video

_SLOW_PATH_SIZE = 20480
"""Maximum C * T * H for which PyTorch 2 takes its slow path, with a batch of one on a CPU."""


def convolve(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """Return conv(x) without PyTorch's slow path on CPUs.

    For a single small clip on a CPU, PyTorch computes Conv3d as a plain matrix product, which takes up to eight times as
    long as oneDNN. This function concatenates the frames that the kernel covers along the channels and calls Conv2d,
    which uses oneDNN. This is slower than Conv3d for very small inputs, but they take the same path: the chunks of a clip
    are computed in the same way as a longer clip.

    Results can differ from Conv3d's, and between a clip and its chunks, by float rounding: oneDNN selects its kernels, and
    with them the order of summation, by tensor shape and CPU.

    Args:
        conv: a convolution without padding in time, and with padding by half the kernel size in space.
        x: (B, C, T, H, W).

    Returns:
        (B, C', T', H', W').
    """
    taps, (stride, *spatial_stride) = conv.kernel_size[0], conv.stride
    steps = (x.shape[2] - taps) // stride + 1
    if x.device.type != "cpu" or x.shape[0] > 1 or math.prod(x.shape[1:4]) > _SLOW_PATH_SIZE:
        return nn.Conv3d.forward(conv, x)
    frames = x.permute(0, 2, 3, 4, 1)
    windows = [frames[:, tap : tap + stride * (steps - 1) + 1 : stride] for tap in range(taps)]
    images = channels_last_images(torch.cat(windows, dim=-1))
    padding = conv.kernel_size[1] // 2
    weight = conv.weight.transpose(1, 2).flatten(1, 2)  # (C', taps C, k, k), in the order of `windows`
    if conv.padding_mode != "zeros":
        images, padding = F.pad(images, (padding, padding, padding, padding), mode=conv.padding_mode), 0
    return images_to_video(F.conv2d(images, weight, conv.bias, spatial_stride, padding), x.shape[0])
