"""UniWeTok's encoder.

Shapes: B batch; T frames, H, W pixels; h, w latent positions; f = 2^(levels - 1) spatial stride; Z latent channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smalti.tokenizers.base import Encoder, StreamState
from smalti.tokenizers.layers.frames import images_to_video
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import Errors
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.models.uniwetok.attention import GridAttention
from smalti.tokenizers.models.uniwetok.positions import encoder_spacing
from smalti.tokenizers.models.wetok.blocks import residual_blocks, to_images
from smalti.tokenizers.models.wetok.initialization import init_weights
from smalti.tokenizers.models.wetok.levels import level_widths
from smalti.tokenizers.models.wetok.norms import group_norm


def siglu(x: Tensor) -> Tensor:
    """Return SigLu(x) = 2 sigmoid(x) - 1, which is in [-1, 1] (arXiv 2602.14178).

    It is computed as tanh(x / 2), which has the sign of x for every x: a difference of numbers close to 1 would round small
    values to 0, and the bit of a channel is its sign.
    """
    return torch.tanh(x / 2)


class DownBlock(nn.Module):
    """One level of the encoder: residual blocks and, except in the last level, downsampling by 2 to the next width."""

    def __init__(self, channels: int, next_channels: int | None, blocks: int, groups: int | None) -> None:
        super().__init__()
        self.blocks = residual_blocks(channels, channels, blocks, groups)
        last = next_channels is None
        self.downsample = nn.Identity() if last else nn.Conv2d(channels, next_channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, next_channels, H / 2, W / 2), or to the same shape in the last level."""
        return self.downsample(self.blocks(x))


class UniWeTokEncoder(Encoder):
    """Encodes a clip frame by frame to one grid with spatial stride f = 2^(levels - 1).

        conv 3x3 -> per level [residual blocks -> conv 3x3 with stride 2, except in the last level] -> attention blocks
          -> norm -> conv 1x1 -> SigLu

    Args:
        out_dim: latent channels Z: groups x bits for `GQ`.
        channels: base number of channels, a multiple of `groups`.
        multipliers: channel multiplier of each level, from pixels to latents; None for [1, 1, 2, 2, 4].
        blocks: residual blocks per level.
        groups: groups of all group norms; None: no norms, recommended for narrow networks.
        attention_blocks: attention blocks after the last level.
        attention_heads: heads of each attention block; the channels of the last level must be a multiple of 4 times this.
        bounded: whether latents pass SigLu, which bounds them to [-1, 1]. True for quantizers that take signs.

    Raises:
        SmaltiError: the arguments do not describe a valid network.
    """

    def __init__(
        self,
        out_dim: int,
        channels: int = 128,
        multipliers: list[int] | None = None,
        blocks: int = 4,
        groups: int | None = 32,
        attention_blocks: int = 2,
        attention_heads: int = 16,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        widths = level_widths(channels, multipliers, blocks, groups)
        self.out_dim = out_dim
        self.groups = groups
        self.bounded = bounded
        factor = 2 ** (len(widths) - 1)
        self.stride = (1, factor, factor)
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.levels = nn.Sequential(
            *(DownBlock(a, b, blocks, groups) for a, b in zip(widths, [*widths[1:], None], strict=True))
        )
        self.attention = GridAttention(widths[-1], attention_blocks, attention_heads, encoder_spacing)
        self.norm_out = group_norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], out_dim, 1)
        init_weights(self)

    @property
    def hidden_units(self) -> int:
        """Units of the last residual block whose results fit into its other channels; 0 with norms."""
        width = self.conv_out.in_channels
        return max(0, width - self.out_dim - 1) if self.groups is None else 0

    def linear_start(self, pyramid: Pyramid, code: StartCode) -> Errors:
        """Set the weights so that the encoder computes a code of principal components, see `linear_start`."""
        from smalti.tokenizers.models.uniwetok.linear_start import fit_encoder  # imports this module

        return fit_encoder(self, pyramid, code)

    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, ...]:
        """Encode (B, 3, T, H, W) in [-1, 1], with H and W multiples of f, to one grid (B, Z, T, H / f, W / f).

        Frames are encoded separately, so `state` is not used.
        """
        h = self.attention(self.levels(self.conv_in(to_images(x, self.groups))))
        h = self.conv_out(self.norm_out(h))
        return (images_to_video(siglu(h) if self.bounded else h, x.shape[0]),)
