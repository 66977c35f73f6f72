"""Residual blocks. Shapes: B batch, C channels, H, W positions."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.layers.norm import group_norm
from smalti.tokenizers.layers.recompute import Recomputed


class ResidualBlock(Recomputed):
    """Norm, swish, convolution, twice, beside a shortcut.

        x -> norm -> swish -> conv3 -> norm -> swish -> conv3 -> + shortcut(x)

    Convolutions have no bias; the shortcut is a 1x1 convolution where the channels change.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        groups: of the norms, a divisor of both; None: no norms.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int | None) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(x) + h


def residual_blocks(in_channels: int, out_channels: int, count: int, groups: int | None) -> nn.Sequential:
    """`count` residual blocks in a row, the first of which changes the channels."""
    widths = [in_channels] + [out_channels] * count
    return nn.Sequential(*(ResidualBlock(a, b, groups) for a, b in pairwise(widths)))
