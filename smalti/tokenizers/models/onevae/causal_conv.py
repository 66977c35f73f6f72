"""Causal 3-D convolution that streams. Shapes: B batch, C channels, T frames, H, W positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.convolution import convolve

_HISTORY = 2
"""Number of previous frames that a causal kernel of three frames sees."""


class CausalConv3d(nn.Conv3d):
    """Causal 3x3x3 convolution. Each output frame sees the current input frame and the two before it.

    Pads with zeros: two frames in front of the clip, one pixel around each frame.

    Args:
        in_channels: input channels.
        out_channels: output channels.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=(0, 1, 1))

    def forward(self, x: Tensor, state: StreamState) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map (B, in_channels, T, H, W) to (B, out_channels, T, H, W)."""
        return convolve(self, prepend_history(self, x, state))


def prepend_history(layer: nn.Module, x: Tensor, state: StreamState) -> Tensor:
    """Prepend the two previous frames to x (zeros in the first chunk), and store the last two for the next chunk.

    Args:
        layer: the key under which the frames are stored.
        x: (B, C, T, H, W).
        state: state of the stream.

    Returns:
        (B, C, 2 + T, H, W).
    """
    if torch.compiler.is_exporting():  # the plain layout, for which shapes remain simple expressions
        return torch.cat([x.new_zeros(*x.shape[:2], _HISTORY, *x.shape[3:]), x], dim=2)
    frames = x.permute(0, 2, 3, 4, 1)
    history = state.load(layer)
    if history is None:
        history = frames.new_zeros(frames.shape[0], _HISTORY, *frames.shape[2:])
    extended = torch.cat([history, frames], dim=1)
    state.store(layer, extended[:, -_HISTORY:])
    return extended.permute(0, 4, 1, 2, 3)
