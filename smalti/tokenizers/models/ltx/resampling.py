"""Downsampling and upsampling in time and space. Shapes: B batch, C channels, T frames, H, W positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from smalti.tokenizers.models.ltx.block_context import BlockContext
from smalti.tokenizers.models.ltx.replication_pad_conv import Padding, ReplicationPadConv3d, Stride, delay
from smalti.tokenizers.models.ltx.space_to_depth import depth_to_space, space_to_depth


class StridedDownsample(nn.Module):
    """Downsample by a causal convolution with stride 2.

    Args:
        channels: input and output channels C.
        stride: stride along (T, H, W).
        padding: see `ReplicationPadConv3d`.
    """

    def __init__(self, channels: int, stride: Stride, *, padding: Padding) -> None:
        super().__init__()
        self.strided = ReplicationPadConv3d(channels, channels, causal=True, stride=stride, padding=padding)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """Map (B, C, T, H, W) to (B, C, t, h, w).

        With temporal stride 2, the first chunk of a clip has 1 + 2 k frames, which become 1 + k.
        """
        return self.strided(x, context.state)


class SpaceToDepthDownsample(nn.Module):
    """Downsample by moving blocks of positions to channels, with a residual connection.

        x -> repeat the first frame, if time is halved
          -> causal conv 3x3x3 -> space to depth -> + mean over groups of channels of space_to_depth(x)

    Args:
        in_channels: input channels.
        out_channels: output channels: a multiple of the number of positions per block, and a divisor of `in_channels` times
            that number.
        stride: block size along (T, H, W).
        padding: see `ReplicationPadConv3d`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Stride, *, padding: Padding) -> None:
        super().__init__()
        self.stride = stride
        self.out_channels = out_channels
        self.conv = ReplicationPadConv3d(in_channels, out_channels // math.prod(stride), causal=True, padding=padding)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """Map (B, in_channels, T, H, W) to (B, out_channels, t, h, w).

        If time is halved, the first chunk of a clip has 1 + 2 k frames, which become 1 + k.
        """
        if self.stride[0] == 2 and context.state.is_first_chunk(self):
            x = torch.cat([x[:, :, :1], x], dim=2)
        means = space_to_depth(x, self.stride).unflatten(1, (self.out_channels, -1)).mean(2)
        return space_to_depth(self.conv(x, context.state), self.stride) + means


class DepthToSpaceUpsample(nn.Module):
    """Upsample by moving channels to blocks of positions.

        x -> conv 3x3x3 -> depth to space -> + depth_to_space(x), repeated along the channels, if `residual`
          -> drop the first frame, if time is doubled

    Args:
        channels: input channels C.
        stride: block size along (T, H, W).
        multiplier: input channels divided by output channels.
        residual: whether there is a residual connection.
        causal: see `ReplicationPadConv3d`.
        padding: see `ReplicationPadConv3d`.
    """

    def __init__(
        self, channels: int, stride: Stride, *, multiplier: int, residual: bool, causal: bool, padding: Padding
    ) -> None:
        super().__init__()
        self.stride = stride
        self.repeats = math.prod(stride) // multiplier if residual else 0
        out_channels = math.prod(stride) * channels // multiplier
        self.conv = ReplicationPadConv3d(channels, out_channels, causal=causal, padding=padding)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """Map (B, C, t, h, w) to (B, C / multiplier, T, H, W).

        If time is doubled, the first t frames of a clip become 2 t - 1. A layer that looks ahead delays frames in a stream.
        """
        h = depth_to_space(self.conv(x, context.state), self.stride)
        if self.repeats:
            residual = delay(x, h.shape[2] // self.stride[0], self, context.state)
            h = h + depth_to_space(residual, self.stride).repeat(1, self.repeats, 1, 1, 1)
        if self.stride[0] == 2 and h.shape[2] and context.state.is_first_chunk(self):
            h = h[:, :, 1:]
        return h
