"""Streaming 3-D convolution with replication padding in time, causal or not.

A layer that looks ahead can compute a frame only after it has received the next one. In a stream it holds its last frame
back, and residual connections are delayed by the same number of frames. The chunks of a clip give exactly the frames of the
whole clip.

Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.convolution import convolve

Padding = Literal["zeros", "replicate"]
"""Spatial padding of convolutions: zeros, or replication of the frame's edge."""

Stride = tuple[int, int, int]
"""Stride along (T, H, W)."""


class ReplicationPadConv3d(nn.Module):
    """3x3x3 convolution with replication padding in time, causal or looking one frame ahead.

    A causal convolution sees the current frame and the two before it, and is padded with two copies of the first frame.
    Otherwise the convolution sees one frame before and one after the current frame, and is padded with one copy of the
    first frame and one copy of the last frame.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        causal: whether the convolution is causal.
        stride: stride along (T, H, W), each 1 or 2. With temporal stride 2, the convolution must be causal, and takes
            1 + 2 k frames in the first chunk and 2 k frames in later chunks.
        padding: spatial padding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        causal: bool,
        stride: Stride = (1, 1, 1),
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        self.causal = causal
        self.conv = nn.Conv3d(in_channels, out_channels, 3, stride, padding=(0, 1, 1), padding_mode=padding)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, in_channels, T, H, W) to (B, out_channels, t, h, w).

        If not causal, the first chunk of a stream gives T - 1 frames, later chunks T, and the last T + 1.
        """
        window = self.pad_time(x, state)
        if window.shape[2] < 3:  # no output yet: the frame after the first is not known
            return x.new_empty(x.shape[0], self.conv.out_channels, 0, *x.shape[3:])
        return convolve(self.conv, window)

    def pad_time(self, x: Tensor, state: StreamState) -> Tensor:
        """Prepend the stored frames, or padding at the beginning of a clip. If not causal, append padding at its end."""
        before = state.load(self)
        if before is None and not x.shape[2]:
            return x
        if before is None:
            before = x[:, :, :1].expand(-1, -1, 2 if self.causal else 1, -1, -1)
        after = [] if self.causal or not state.last else [(x if x.shape[2] else before)[:, :, -1:]]
        if torch.compiler.is_exporting():  # the plain layout, for which shapes remain simple expressions
            return torch.cat([before, x, *after], dim=2)
        # Channels are last in memory: convolutions keep this layout, in which the norms over channels take less time.
        window = torch.cat([part.permute(0, 2, 3, 4, 1) for part in (before, x, *after)], dim=1).permute(0, 4, 1, 2, 3)
        state.store(self, window[:, :, -(3 - self.conv.stride[0]) :])
        return window


def delay(x: Tensor, frames: int, layer: nn.Module, state: StreamState) -> Tensor:
    """Delay the input of a residual connection by as many frames as the layers that it skips.

    Args:
        x: (B, C, T, H, W) input of the layers in this chunk.
        frames: number of frames that the layers returned.
        layer: the key under which the remaining frames are stored for the next chunk.
        state: state of the stream.

    Returns:
        (B, C, frames, H, W), the frames of x that correspond to the frames that the layers returned.
    """
    before = state.load((layer, "delayed"))
    if before is not None:
        x = torch.cat([before, x], dim=2)
    if before is not None or frames < x.shape[2]:
        state.store((layer, "delayed"), x[:, :, frames:])
    return x[:, :, :frames]
