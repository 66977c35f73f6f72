"""Changing the number of positions. Shapes: B batch, C channels, H, W positions."""

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
