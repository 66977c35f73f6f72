"""Convolutions over space and time that never look ahead, and go on from chunk to chunk of a clip.

Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.convolution import convolve

_HISTORY = 2
"""Frames before the present one that a convolution of three frames sees."""


class CausalConv3d(nn.Conv3d):
    """3 x 3 x 3 over the present frame and the two before it; zeros before the clip begins, and around each frame.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=(0, 1, 1))

    def forward(self, x: Tensor, state: StreamState) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, in_channels, T, H, W) to (B, out_channels, T, H, W)."""
        return convolve(self, prepend_history(self, x, state))


def prepend_history(layer: nn.Module, x: Tensor, state: StreamState) -> Tensor:
    """X with the two frames before it, zeros where the clip begins; keeps its last two frames for the next chunk."""
    frames = x.permute(0, 2, 3, 4, 1)
    before = state.load(layer)
    if before is None:
        before = frames.new_zeros(frames.shape[0], _HISTORY, *frames.shape[2:])
    seen = torch.cat([before, frames], dim=1)
    state.store(layer, seen[:, -_HISTORY:])
    return seen.permute(0, 4, 1, 2, 3)
