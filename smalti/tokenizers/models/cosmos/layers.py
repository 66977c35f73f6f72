"""Convolutions and norms of Cosmos' networks. Networks for images have 2-D layers, networks for clips factorized 3-D ones.

All layers take a stream, which those for images ignore.

Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.convolution import convolve
from smalti.tokenizers.layers.frames import apply_per_frame

IMAGE_GROUPS = 32
"""Groups of the group norms in networks for images. Networks for clips have one group."""

_TAPS = 3


class ImageConv(nn.Conv2d):
    """3x3 convolution of images, padded with zeros."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        return super().forward(x)


class TemporalConv(nn.Conv3d):
    """Causal convolution over three frames of each position. Two copies of the first frame are the padding in front.

    Args:
        channels: input and output channels.
        stride: 1; or 2, with 1 + 2 k frames in the first chunk and 2 k in later ones.
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__(channels, channels, (_TAPS, 1, 1), (stride, 1, 1))

    def forward(self, x: Tensor, state: StreamState) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map (B, channels, T, H, W) to (B, channels, T, H, W), or 1 + k and k frames with stride 2."""
        before = state.load(self)
        if before is None:
            before = x[:, :, :1].expand(-1, -1, _TAPS - 1, -1, -1)
        if torch.compiler.is_exporting():  # the plain layout, for which shapes remain simple expressions
            return convolve(self, torch.cat([before, x], dim=2))
        window = torch.cat([part.permute(0, 2, 3, 4, 1) for part in (before, x)], dim=1).permute(0, 4, 1, 2, 3)
        state.store(self, window[:, :, -(_TAPS - self.stride[0]) :])
        return convolve(self, window)


class FactorizedConv(nn.Module):
    """Causal convolution over 3x3x3 positions: 1x3x3, then 3x1x1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.space = nn.Conv3d(in_channels, out_channels, (1, 3, 3), padding=(0, 1, 1))
        self.time = TemporalConv(out_channels)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, in_channels, T, H, W) to (B, out_channels, T, H, W)."""
        return self.time(convolve(self.space, x), state)


class FrameNorm(nn.GroupNorm):
    """Group norm of images, or of each frame of a clip separately."""

    def __init__(self, channels: int, video: bool) -> None:
        super().__init__(1 if video else IMAGE_GROUPS, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map (B, C, H, W) or (B, C, T, H, W) to the same shape."""
        return apply_per_frame(self._normalize, x) if x.ndim == 5 else self._normalize(x)

    def _normalize(self, images: Tensor) -> Tensor:
        # Not F.group_norm, which refuses an image of one pixel.
        return torch.group_norm(images, self.num_groups, self.weight, self.bias, self.eps)


def make_conv(in_channels: int, out_channels: int, video: bool) -> ImageConv | FactorizedConv:
    """Return a convolution with a kernel of size 3 for images or clips."""
    return FactorizedConv(in_channels, out_channels) if video else ImageConv(in_channels, out_channels)


def make_pointwise(in_channels: int, out_channels: int, video: bool) -> nn.Conv2d | nn.Conv3d:
    """Return a convolution with a kernel of size 1 for images or clips."""
    return nn.Conv3d(in_channels, out_channels, 1) if video else nn.Conv2d(in_channels, out_channels, 1)
