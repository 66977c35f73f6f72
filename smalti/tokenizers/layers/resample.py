"""Changing the number of positions. Shapes: B batch, C channels, T frames, H, W positions."""

from torch import Tensor, nn


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


def blocks_to_channels(x: Tensor, block: tuple[int, int, int]) -> Tensor:
    """(B, C, T, H, W) to (B, C t h w, T / t, H / h, W / w) for blocks of (t, h, w) positions.

    Channels are ordered (channel, frame, row, column) of the block.
    """
    b, c, frames, height, width = x.shape
    t, h, w = block
    x = x.reshape(b, c, frames // t, t, height // h, h, width // w, w).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, c * t * h * w, frames // t, height // h, width // w)


def channels_to_blocks(x: Tensor, block: tuple[int, int, int]) -> Tensor:
    """The inverse of `blocks_to_channels`: (B, C t h w, T, H, W) to (B, C, t T, h H, w W)."""
    b, c, frames, height, width = x.shape
    t, h, w = block
    c //= t * h * w
    x = x.reshape(b, c, t, h, w, frames, height, width).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c, frames * t, height * h, width * w)
