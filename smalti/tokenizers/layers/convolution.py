"""Fast 3-D convolutions on CPUs.

Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.layers.frames import channels_last_images, images_to_video
from smalti.tokenizers.layers.winograd import winograd_conv

_SLOW_PATH_SIZE = 20480
"""Maximum C * T * H for which PyTorch 2 takes its slow path, with a batch of one on a CPU."""

_WINOGRAD_CHANNELS = 128 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 64
_WINOGRAD_POSITIONS = 1024
"""Input and output channels, and positions of the output, from which on Winograd's convolution takes less time.

With AVX-512, oneDNN's convolutions are so fast that Winograd's takes twice as long at 96 channels, and half at 384.
"""


def convolve(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """Return conv(x) by the method that takes the least time on a CPU, where PyTorch's choice is often another.

    - Many channels and positions: Winograd's convolution, if no gradients are recorded. It takes 0.6 to 0.9 of the time.
    - Few positions, so that reading the weights takes most of the time: PyTorch's plain matrix product. oneDNN would copy
      the weights to another layout first.
    - Other small clips: oneDNN, where PyTorch computes a plain matrix product, which takes up to twice as long. Gradients
      need another way to get there: the frames that the kernel covers are concatenated along the channels for Conv2d.
    - All others, compiled networks, autocast and other devices: Conv3d.

    Results differ from Conv3d's, and between a clip and its chunks, by float rounding: the order of summation depends on
    the method, and oneDNN selects its own by tensor shape and CPU.

    Args:
        conv: a convolution without padding in time, and with padding by half the kernel size in space.
        x: (B, C, T, H, W).

    Returns:
        (B, C', T', H', W').
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return nn.Conv3d.forward(conv, x)
    if torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad):
        small = x.shape[0] == 1 and x.shape[1:4].numel() <= _SLOW_PATH_SIZE
        return _convolve_as_images(conv, x) if small else nn.Conv3d.forward(conv, x)
    positions = x.shape[0] * (x.shape[2] - conv.kernel_size[0] + 1) * x.shape[3:].numel()  # those of stride 1
    if _suits_winograd(conv, x, positions):
        padded = _pad_channels_last(conv, x)
        return winograd_conv(padded, conv.weight, conv.bias).permute(0, 4, 1, 2, 3)
    if x.dtype != torch.float32 or positions <= conv.out_channels or not torch.backends.mkldnn.is_available():
        return nn.Conv3d.forward(conv, x)
    padding = (0, conv.kernel_size[1] // 2, conv.kernel_size[2] // 2)
    if conv.padding_mode != "zeros":
        x, padding = _pad_channels_last(conv, x).permute(0, 4, 1, 2, 3), (0, 0, 0)
    return torch.mkldnn_convolution(x, conv.weight, conv.bias, padding, conv.stride, conv.dilation, 1)


def _suits_winograd(conv: nn.Conv3d, x: Tensor, positions: int) -> bool:
    low, high = sorted((conv.in_channels, conv.out_channels))
    return (
        low >= _WINOGRAD_CHANNELS
        and positions >= max(_WINOGRAD_POSITIONS, 4 * high)  # the transform of the weights must be worthwhile
        and conv.kernel_size[1:] == (3, 3)
        and conv.stride == (1, 1, 1)
        and x.dtype in (torch.float32, torch.float64)
    )


def _pad_channels_last(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """Return x with the spatial padding of a convolution, (B, T, H + 2 p, W + 2 p, C), contiguous."""
    (p, q), frames = conv.kernel_size[1:], x.permute(0, 2, 3, 4, 1)
    rows, columns = p // 2, q // 2
    if conv.padding_mode == "zeros":
        return F.pad(frames, (0, 0, columns, columns, rows, rows))
    padded = F.pad(x, (columns, columns, rows, rows, 0, 0), mode=conv.padding_mode)
    return padded.permute(0, 2, 3, 4, 1).contiguous()


def _convolve_as_images(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """Return conv(x), computed by Conv2d from frames that are concatenated along the channels."""
    taps, (stride, *spatial_stride) = conv.kernel_size[0], conv.stride
    steps = (x.shape[2] - taps) // stride + 1
    frames = x.permute(0, 2, 3, 4, 1)
    windows = [frames[:, tap : tap + stride * (steps - 1) + 1 : stride] for tap in range(taps)]
    images = channels_last_images(torch.cat(windows, dim=-1))
    padding = conv.kernel_size[1] // 2
    weight = conv.weight.transpose(1, 2).flatten(1, 2)  # (C', taps C, k, k), in the order of `windows`
    if conv.padding_mode != "zeros":
        images, padding = F.pad(images, (padding, padding, padding, padding), mode=conv.padding_mode), 0
    return images_to_video(F.conv2d(images, weight, conv.bias, spatial_stride, padding), x.shape[0])
