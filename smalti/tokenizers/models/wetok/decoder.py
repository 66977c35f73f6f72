"""WeTok's decoder and generative decoder.

Shapes: B batch; T frames; h, w latent positions; f = 2^(levels - 1) spatial stride; Z latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import Decoder, StreamState
from smalti.tokenizers.layers.frames import images_to_video
from smalti.tokenizers.layers.noise import randn_per_frame
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import Errors
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.models.wetok.blocks import DepthToSpace, residual_blocks, to_images
from smalti.tokenizers.models.wetok.initialization import init_weights
from smalti.tokenizers.models.wetok.levels import level_widths
from smalti.tokenizers.models.wetok.norms import AdaptiveGroupNorm, group_norm


class UpBlock(nn.Module):
    """One level of the decoder: adaptive group norm, residual blocks and, except in the last level, upsampling by 2."""

    def __init__(
        self, latent_dim: int, in_channels: int, channels: int, blocks: int, groups: int | None, *, last: bool
    ) -> None:
        super().__init__()
        self.norm = AdaptiveGroupNorm(latent_dim, in_channels, groups)
        self.blocks = residual_blocks(in_channels, channels, blocks, groups)
        self.upsample = nn.Identity() if last else DepthToSpace(channels)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) and the latent (B, Z, h, w) to (B, channels, 2 H, 2 W), or H, W in the last level."""
        return self.upsample(self.blocks(self.norm(x, z)))


class WeTokDecoder(Decoder):
    """Decodes one grid, frame by frame.

        conv 3x3 -> residual blocks
          -> per level [group norm adapted to z -> residual blocks -> depth to space, except in the last level]
          -> norm -> SiLU -> conv 3x3

    Args:
        in_dim: latent channels Z.
        channels: base number of channels, a multiple of `groups`.
        multipliers: channel multiplier of each level, from pixels to latents as in the encoder; the levels run in reverse
            order. None for [1, 1, 2, 2, 4].
        blocks: residual blocks per level, and before the first level.
        groups: groups of all group norms; None: no norms, recommended for narrow networks.

    Raises:
        SmaltiError: the arguments do not describe a valid network.
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 256,
        multipliers: list[int] | None = None,
        blocks: int = 4,
        groups: int | None = 32,
    ) -> None:
        super().__init__()
        widths = level_widths(channels, multipliers, blocks, groups)
        self.in_dim = in_dim
        self.groups = groups
        self.conv_in = nn.Conv2d(self._conv_in_dim(in_dim), widths[-1], 3, padding=1)
        self.middle = residual_blocks(widths[-1], widths[-1], blocks, groups)
        in_widths = [*widths[1:], widths[-1]]
        self.levels = nn.ModuleList(
            UpBlock(in_dim, in_width, width, blocks, groups, last=i == 0)
            for i, (in_width, width) in enumerate(zip(in_widths, widths, strict=True))
        )
        self.norm_out = group_norm(widths[0], groups)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)
        init_weights(self)
        with torch.no_grad():
            self.conv_out.weight.mul_(0.1)  # start near gray and not at random colors

    @property
    def last_layer(self) -> nn.Module:
        """The last convolution."""
        return self.conv_out

    def linear_start(self, pyramid: Pyramid, code: StartCode, latents: Sequence[tuple[Tensor, ...]]) -> Errors:
        """Set the weights so that the decoder reconstructs pixels from a code, see `linear_start`."""
        from smalti.tokenizers.models.wetok.linear_start import fit_decoder  # imports this module

        return fit_decoder(self, pyramid, code, [grid for (grid,) in latents])

    @property
    def outer_layers(self) -> tuple[nn.Module, ...]:
        """The first and the last convolution, and the norms, which read the latents."""
        norms = (module for module in self.modules() if isinstance(module, AdaptiveGroupNorm))
        return (self.conv_in, self.conv_out, *norms)

    def forward(
        self, latents: tuple[Tensor, ...], generator: torch.Generator | None = None, state: StreamState | None = None
    ) -> Tensor:
        """Decode one grid (B, Z, T, h, w) to (B, 3, T, f h, f w).

        Frames are decoded separately, so `state` is not used.
        """
        (grid,) = latents
        z = to_images(grid, self.groups)
        h = self._decode_positions(self.conv_in(to_images(self._conv_in_input(grid, generator), self.groups)))
        for level in reversed(self.levels):
            h = level(h, z)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return images_to_video(h, grid.shape[0])

    def _decode_positions(self, h: Tensor) -> Tensor:
        """Apply the layers between the first convolution and the levels: (B, C, h, w) to the same shape."""
        return self.middle(h)

    @staticmethod
    def _conv_in_dim(in_dim: int) -> int:
        """Return the input channels of the first convolution."""
        return in_dim

    def _conv_in_input(self, grid: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the input of the first convolution, (B, conv_in channels, T, h, w), for the latent (B, Z, T, h, w)."""
        return grid


class WeTokGenerativeDecoder(WeTokDecoder):
    """A decoder that samples: the first convolution takes z concatenated with noise of z's shape (arXiv 2508.05599, 3.3).

    The adaptive norms receive z without noise. Trained with a GAN loss, the decoder samples the detail that high
    compression has lost instead of predicting its mean. It has the same arguments as `WeTokDecoder`.
    """

    generative = True

    @staticmethod
    def _conv_in_dim(in_dim: int) -> int:
        return 2 * in_dim

    def _conv_in_input(self, grid: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.cat([grid, randn_per_frame(grid, generator)], dim=1)

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adapt the weights of a `WeTokDecoder`: weights of the noise channels are zero, so noise has no effect at first.

        The published second stage is initialized from the first stage in this way (arXiv 2508.05599, section 3.3).
        """
        key = "conv_in.weight"
        weight = weights.get(key)
        if weight is None or weight.shape[1] != self.in_dim:
            return weights
        return weights | {key: torch.cat([weight, torch.zeros_like(weight)], dim=1)}
