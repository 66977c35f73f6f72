"""Changing the number of positions. Shapes: B batch, C channels, T frames, H, W positions."""

from __future__ import annotations

from torch import Tensor


def space_to_depth(x: Tensor, block: tuple[int, int, int]) -> Tensor:
    """(B, C, T, H, W) to (B, C t h w, T / t, H / h, W / w) for blocks of (t, h, w) positions.

    Channels are ordered (channel, frame, row, column) of the block.
    """
    b, c, frames, height, width = x.shape
    t, h, w = block
    x = x.reshape(b, c, frames // t, t, height // h, h, width // w, w).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, c * t * h * w, frames // t, height // h, width // w)


def depth_to_space(x: Tensor, block: tuple[int, int, int]) -> Tensor:
    """The inverse of `blocks_to_channels`: (B, C t h w, T, H, W) to (B, C, t T, h H, w W)."""
    b, c, frames, height, width = x.shape
    t, h, w = block
    c //= t * h * w
    x = x.reshape(b, c, t, h, w, frames, height, width).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c, frames * t, height * h, width * w)
