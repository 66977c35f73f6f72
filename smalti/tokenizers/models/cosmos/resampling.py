"""Downsampling and upsampling of Cosmos' networks. Shapes: B batch, C channels, T frames, H, W positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.convolution import convolve
from smalti.tokenizers.models.cosmos.layers import ImageConv, TemporalConv


class ImageDownsample(nn.Module):
    """3x3 convolution with stride 2, padded with one row and one column of zeros at the bottom and the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / 2, W / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class ImageUpsample(nn.Module):
    """Repeats rows and columns, then 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ImageConv(channels, channels)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2 H, 2 W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"), state)


class ClipDownsample(nn.Module):
    """Downsamples a clip in space, then in time, each by a mean plus a convolution; then a 1x1x1 convolution.

    Args:
        channels: number of channels C.
        space: whether height and width are halved.
        time: whether 1 + 2 k frames become 1 + k.
    """

    def __init__(self, channels: int, space: bool, time: bool) -> None:
        super().__init__()
        self.space = nn.Conv3d(channels, channels, (1, 3, 3), (1, 2, 2)) if space else None
        self.time = TemporalConv(channels, stride=2) if time else None
        self.out = nn.Conv3d(channels, channels, 1)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, C, T, H, W) to (B, C, t, h, w)."""
        if self.space is not None:
            # The mean is over pairs of rows and columns: the padding is part of none.
            x = self.space(F.pad(x, (0, 1, 0, 1))) + F.avg_pool3d(x, (1, 2, 2))
        if self.time is not None:
            pairs = torch.cat([x[:, :, :1], x], dim=2) if state.is_first_chunk((self, "pairs")) else x
            x = self.time(x, state) + F.avg_pool3d(pairs, (2, 1, 1))
        return self.out(x)


class ClipUpsample(nn.Module):
    """Upsamples a clip in time, then in space, each by repeating plus a convolution; then a 1x1x1 convolution.

    Args:
        channels: number of channels C.
        space: whether height and width are doubled.
        time: whether 1 + k frames become 1 + 2 k.
    """

    def __init__(self, channels: int, space: bool, time: bool) -> None:
        super().__init__()
        self.time = TemporalConv(channels) if time else None
        self.space = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1)) if space else None
        self.out = nn.Conv3d(channels, channels, 1)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, C, t, h, w) to (B, C, T, H, W)."""
        if self.time is not None:
            x = x.repeat_interleave(2, dim=2)
            x = x[:, :, 1:] if state.is_first_chunk((self, "frames")) else x
            x = x + self.time(x, state)
        if self.space is not None:
            x = F.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="nearest")
            x = x + convolve(self.space, x)
        return self.out(x)
