"""Convolutions over space and time that repeat a clip's edges, causal or not, and go on from chunk to chunk of a clip.

A layer that looks ahead gives a frame when it has seen the next one: in a stream it holds its last frame back, and what
runs beside it is delayed alike. So the chunks of a clip become the frames of the whole clip, exactly.

Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.convolution import convolve

Padding = Literal["zeros", "replicate"]
"""What a convolution sees around a frame: zeros, or the frame's edge repeated."""


class ReplicationPadConv3d(nn.Module):
    """3 x 3 x 3 over a clip whose first frame goes on before it; causal, or looking one frame ahead: the last goes on too.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        causal: see the present frame and the two before it, instead of one before and one after.
        stride: in (T, H, W), each 1 or 2; a causal one of time stride 2 takes 1 + 2 k frames, then 2 k in later chunks.
        padding: of space.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        causal: bool,
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        self.causal = causal
        self.conv = nn.Conv3d(in_channels, out_channels, 3, stride, padding=(0, 1, 1), padding_mode=padding)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """(B, in_channels, T, H, W) to (B, out_channels, t, h, w).

        With stride 1 and not causal, a stream's first chunk gives T - 1 frames, the following T, and the last T + 1.
        """
        window = self._window(x, state)
        if window.shape[2] < 3:  # nothing yet: the frame after the first is not known
            return x.new_empty(x.shape[0], self.conv.out_channels, 0, *x.shape[3:])
        return convolve(self.conv, window)

    def _window(self, x: Tensor, state: StreamState) -> Tensor:
        """The chunk between what went before and, where the clip ends and the layer looks ahead, its last frame again."""
        before = state.load(self)
        if before is None and not x.shape[2]:
            return x
        if before is None:
            before = x[:, :, :1].expand(-1, -1, 2 if self.causal else 1, -1, -1)
        after = [] if self.causal or not state.last else [(x if x.shape[2] else before)[:, :, -1:]]
        window = torch.cat([before, x, *after], dim=2)
        state.store(self, window[:, :, -(3 - self.conv.stride[0]) :])
        return window


def delay(x: Tensor, frames: int, layer: nn.Module, state: StreamState) -> Tensor:
    """The next frames of what runs beside layers that look ahead: as many as they gave, the rest kept for later.

    Args:
        x: (B, C, T, H, W) what came in with this chunk.
        frames: what came out of the layers beside.
        layer: under whose name the rest is kept.
        state: of the stream.
    """
    before = state.load((layer, "delayed"))
    if before is not None:
        x = torch.cat([before, x], dim=2)
    if before is not None or frames < x.shape[2]:
        state.store((layer, "delayed"), x[:, :, frames:])
    return x[:, :, :frames]
