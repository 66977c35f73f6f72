"""Residual blocks and upsampling in WeTok's networks. Shapes: B batch, C channels, H, W positions."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.layers.activation_checkpointing import CheckpointedBlock
from smalti.tokenizers.layers.frames import channels_last_images, video_to_images
from smalti.tokenizers.models.wetok.norms import group_norm


class ResidualBlock(CheckpointedBlock):
    """Two 3x3 convolutions with a residual connection.

        x -> norm -> SiLU -> conv 3x3 -> norm -> SiLU -> conv 3x3 -> + shortcut(x)

    The convolutions have no bias. The shortcut is a 1x1 convolution if the number of channels changes, else the identity.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        groups: groups of the group norms, a divisor of both; None: no norms.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int | None) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(x) + h


def residual_blocks(in_channels: int, out_channels: int, count: int, groups: int | None) -> nn.Sequential:
    """Return a sequence of `count` residual blocks. The first one changes the number of channels."""
    widths = [in_channels] + [out_channels] * count
    return nn.Sequential(*(ResidualBlock(a, b, groups) for a, b in pairwise(widths)))


def depth_to_space(x: Tensor, block: int = 2) -> Tensor:
    """Rearrange (B, block * block * C, H, W) to (B, C, block * H, block * W).

    Input channels are ordered (block row, block column, channel), as in TensorFlow and MAGVIT-v2. In PyTorch's
    pixel_shuffle, the channel comes first.
    """
    b, c, h, w = x.shape
    # Keep the layout: all channels of an output are copied at once.
    if not torch.compiler.is_exporting() and x.is_contiguous(memory_format=torch.channels_last):
        rows = x.permute(0, 2, 3, 1).reshape(b, h, w, block, c // block).transpose(2, 3)
        return rows.reshape(b, h * block, w * block, c // block**2).permute(0, 3, 1, 2)
    blocks = x.reshape(b, block, block, c // block**2, h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(b, c // block**2, h * block, w * block)


def to_images(x: Tensor, groups: int | None) -> Tensor:
    """Reshape a video (B, C, T, H, W) to images (B T, C, H, W), in the memory format in which the network is fastest.

    On a CPU, convolutions are faster if channels are last in memory: oneDNN otherwise copies their inputs and outputs to a
    layout of its own. PyTorch's group norm is slower in this format by more than what the convolutions gain.

    Args:
        x: the video.
        groups: groups of the group norms of the network; None: no norms.
    """
    if groups is not None or x.device.type != "cpu" or torch.compiler.is_exporting():
        return video_to_images(x)
    return channels_last_images(x.permute(0, 2, 3, 4, 1))


class DepthToSpace(nn.Module):
    """Upsample by 2: a 3x3 convolution to 4 C channels, rearranged to twice the height and width.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2 H, 2 W)."""
        return depth_to_space(self.conv(x))
