"""WeTok's encoder, decoder and generative decoder (arXiv 2508.05599), after MAGVIT-v2 (arXiv 2310.05737).

They are two-dimensional: the frames of a video are coded one by one.

Shapes: B batch, T frames, H, W pixels; h, w latent rows and columns; f = 2^(levels - 1) the stride; Z latent channels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers.layers.activation_checkpointing import CheckpointedBlock
from smalti.tokenizers.models.wetok.norms import group_norm


def level_widths(channels: int, multipliers: list[int], blocks: int, groups: int | None) -> list[int]:
    """Channels of each level.

    Raises:
        SmaltiError: no level, no block, or channels that group norm cannot divide.
    """
    if not multipliers or min(multipliers) < 1 or blocks < 1:
        raise SmaltiError(f"multipliers {multipliers} and blocks {blocks} must each be at least one, and at least 1.")
    if groups is not None and (channels < 1 or groups < 1 or channels % groups):
        raise SmaltiError(f"channels is {channels}, but group norm needs a positive multiple of its {groups} groups.")
    return [channels * m for m in multipliers]


def to_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) to (B T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def to_video(x: Tensor, frames: int) -> Tensor:
    """(B T, C, H, W) to (B, C, T, H, W)."""
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


@torch.no_grad()
def init_weights(network: nn.Module) -> None:
    """Fresh weights that keep a signal's variance, with residual branches that start small.

    How the published models were initialised is not known to matter to them; PyTorch's default shrinks a signal to a third
    at each convolution, and a small network then takes several times as many steps to its first decibels.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.conv2.weight.mul_(0.2)



class ResidualBlock(CheckpointedBlock):
    """Norm, swish, convolution, twice, beside a shortcut.

        x -> norm -> swish -> conv3 -> norm -> swish -> conv3 -> + shortcut(x)

    Convolutions have no bias; the shortcut is a 1x1 convolution where the channels change.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        groups: of the norms, a divisor of both; None: no norms.
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
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(x) + h


def residual_blocks(in_channels: int, out_channels: int, count: int, groups: int | None) -> nn.Sequential:
    """`count` residual blocks in a row, the first of which changes the channels."""
    widths = [in_channels] + [out_channels] * count
    return nn.Sequential(*(ResidualBlock(a, b, groups) for a, b in pairwise(widths)))



def depth_to_space(x: Tensor, block: int = 2) -> Tensor:
    """(B, block * block * C, H, W) to (B, C, block * H, block * W).

    Channels are ordered (block row, block column, channel), as in TensorFlow and MAGVIT-v2; PyTorch's pixel shuffle has
    the channel first.
    """
    b, c, h, w = x.shape
    blocks = x.reshape(b, block, block, c // block**2, h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(b, c // block**2, h * block, w * block)


class DepthToSpace(nn.Module):
    """A 3x3 convolution to 4 C channels, laid out as twice as many rows and columns.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2 H, 2 W)."""
        return depth_to_space(self.conv(x))
