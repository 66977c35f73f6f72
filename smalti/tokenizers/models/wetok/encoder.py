"""WeTok's encoder.

Shapes: B batch; T frames, H, W pixels; h, w latent positions; f = 2^(levels - 1) spatial stride; Z latent channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import Encoder, StreamState
from smalti.tokenizers.layers.frames import images_to_video
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import Errors
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.models.wetok.blocks import residual_blocks, to_images
from smalti.tokenizers.models.wetok.initialization import init_weights
from smalti.tokenizers.models.wetok.levels import level_widths
from smalti.tokenizers.models.wetok.norms import group_norm


class DownBlock(nn.Module):
    """One level of the encoder: residual blocks and, except in the last level, downsampling by 2."""

    def __init__(self, in_channels: int, channels: int, blocks: int, groups: int | None, *, last: bool) -> None:
        super().__init__()
        self.blocks = residual_blocks(in_channels, channels, blocks, groups)
        self.downsample = nn.Identity() if last else nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H / 2, W / 2), or H, W in the last level."""
        return self.downsample(self.blocks(x))


class WeTokEncoder(Encoder):
    """Encodes a clip frame by frame to one grid with spatial stride f = 2^(levels - 1).

        conv 3x3 -> per level [residual blocks -> conv 3x3 with stride 2, except in the last level] -> residual blocks
          -> norm -> SiLU -> conv 1x1

    Args:
        out_dim: latent channels Z: groups x bits for `GQ`.
        channels: base number of channels, a multiple of `groups`.
        multipliers: channel multiplier of each level, from pixels to latents; None for [1, 1, 2, 2, 4].
        blocks: residual blocks per level, and after the last level.
        groups: groups of all group norms; None: no norms, recommended for narrow networks.

    Raises:
        SmaltiError: the arguments do not describe a valid network.
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
        widths = level_widths(channels, multipliers, blocks, groups)
        self.out_dim = out_dim
        self.groups = groups
        factor = 2 ** (len(widths) - 1)
        self.stride = (1, factor, factor)
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        in_widths = [channels, *widths[:-1]]
        self.levels = nn.Sequential(
            *(
                DownBlock(in_width, width, blocks, groups, last=i + 1 == len(widths))
                for i, (in_width, width) in enumerate(zip(in_widths, widths, strict=True))
            )
        )
        self.middle = residual_blocks(widths[-1], widths[-1], blocks, groups)
        self.norm_out = group_norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], out_dim, 1)
        init_weights(self)

    @property
    def hidden_units(self) -> int:
        """Channels before the last SiLU; 0 with norms."""
        return self.conv_out.in_channels if self.groups is None else 0

    def linear_start(self, pyramid: Pyramid, code: StartCode) -> Errors:
        """Set the weights so that the encoder computes a code of principal components, see `linear_start`."""
        from smalti.tokenizers.models.wetok.linear_start import fit_encoder  # imports this module

        return fit_encoder(self, pyramid, code)

    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, ...]:
        """Encode (B, 3, T, H, W) in [-1, 1], with H and W multiples of f, to one grid (B, Z, T, H / f, W / f).

        Frames are encoded separately, so `state` is not used.
        """
        h = self.middle(self.levels(self.conv_in(to_images(x, self.groups))))
        h = self.conv_out(F.silu(self.norm_out(h)))
        return (images_to_video(h, x.shape[0]),)
