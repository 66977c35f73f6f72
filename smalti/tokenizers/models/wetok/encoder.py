"""WeTok's encoder, decoder and generative decoder (arXiv 2508.05599), after MAGVIT-v2 (arXiv 2310.05737).

They are two-dimensional: the frames of a video are coded one by one.

Shapes: B batch, T frames, H, W pixels; h, w latent rows and columns; f = 2^(levels - 1) the stride; Z latent channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import Encoder, StreamState
from smalti.tokenizers.models.wetok.blocks import init_weights, level_widths, residual_blocks, to_frames, to_video
from smalti.tokenizers.models.wetok.norms import group_norm


class _DownBlock(nn.Module):
    """A level of the encoder: residual blocks, then (but for the last) half the rows and columns."""

    def __init__(self, before: int, width: int, blocks: int, groups: int | None, *, last: bool) -> None:
        super().__init__()
        self.blocks = residual_blocks(before, width, blocks, groups)
        self.downsample = nn.Identity() if last else nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class WeTokEncoder(Encoder):
    """Pixels to a grid of stride f = 2^(levels - 1).

        conv3 -> [residual blocks -> conv3 stride 2] a level, the last without its stride -> residual blocks
          -> norm -> swish -> conv1

    Args:
        out_dim: Z, channels of a position: groups x bits where GQ follows.
        channels: width that the multipliers multiply, a multiple of `groups`.
        multipliers: one a level, from pixels to positions; one level more than the stride has factors of two.
        blocks: residual blocks a level, and in the middle.
        groups: of all group norms; None leaves the norms out, which suits narrow networks.

    Raises:
        SmaltiError: arguments that make no network.
    """

    def __init__(
        self,
        out_dim: int,
        channels: int = 256,
        multipliers: list[int] | None = None,
        blocks: int = 4,
        groups: int | None = 32,
    ) -> None:
        super().__init__()
        multipliers = [1, 1, 2, 2, 4] if multipliers is None else multipliers
        widths = level_widths(channels, multipliers, blocks, groups)
        self.out_dim = out_dim
        factor = 2 ** (len(widths) - 1)
        self.stride = (1, factor, factor)
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        befores = [channels, *widths[:-1]]
        self.levels = nn.Sequential(
            *(
                _DownBlock(before, width, blocks, groups, last=i + 1 == len(widths))
                for i, (before, width) in enumerate(zip(befores, widths, strict=True))
            )
        )
        self.middle = residual_blocks(widths[-1], widths[-1], blocks, groups)
        self.norm_out = group_norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], out_dim, 1)
        init_weights(self)

    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, ...]:
        """(B, 3, T, H, W) in [-1, 1], H and W multiples of f, to one grid (B, Z, T, H / f, W / f)."""
        h = self.middle(self.levels(self.conv_in(to_frames(x))))
        h = self.conv_out(F.silu(self.norm_out(h)))
        return (to_video(h, x.shape[2]),)
