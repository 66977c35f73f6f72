"""Moving blocks of positions to channels and back. Shapes: B batch, C channels, T frames, H, W positions."""

from __future__ import annotations

from torch import Tensor


def space_to_depth(x: Tensor, block: tuple[int, int, int]) -> Tensor:
    """Rearrange blocks of (t, h, w) positions to channels.

    Args:
        x: (B, C, T, H, W), where T, H, W are multiples of the block's size.
        block: (t, h, w).

    Returns:
        (B, C t h w, T / t, H / h, W / w), with channels ordered (channel, frame, row, column of the block).
    """
    b, c, frames, height, width = x.shape
    t, h, w = block
    x = x.reshape(b, c, frames // t, t, height // h, h, width // w, w).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, c * t * h * w, frames // t, height // h, width // w)


def depth_to_space(x: Tensor, block: tuple[int, int, int]) -> Tensor:
    """Invert `space_to_depth`: (B, C t h w, T, H, W) to (B, C, t T, h H, w W)."""
    b, c, frames, height, width = x.shape
    t, h, w = block
    c //= t * h * w
    x = x.reshape(b, c, t, h, w, frames, height, width).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c, frames * t, height * h, width * w)


def patchify(x: Tensor, patch: int) -> Tensor:
    """Rearrange square patches of pixels to channels.

    Args:
        x: (B, 3, T, H, W), where H and W are multiples of `patch`.
        patch: height and width p of a patch.

    Returns:
        (B, 3 p p, T, H / p, W / p), with channels ordered (color, column, row of the patch), as published.
    """
    return space_to_depth(x.transpose(3, 4), (1, patch, patch)).transpose(3, 4)


def unpatchify(x: Tensor, patch: int) -> Tensor:
    """Invert `patchify`: (B, 3 p p, T, h, w) to (B, 3, T, p h, p w)."""
    return depth_to_space(x.transpose(3, 4), (1, patch, patch)).transpose(3, 4)
