"""The decoder of Cosmos' tokenizers (arXiv 2501.03575).

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; C latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import Decoder, StreamState
from smalti.tokenizers.layers.frames import channels_last_video, images_to_video, video_to_images
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import Errors
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.models.cosmos.blocks import Level, MiddleBlocks
from smalti.tokenizers.models.cosmos.haar import clip_pixels, image_pixels
from smalti.tokenizers.models.cosmos.initialization import init_weights
from smalti.tokenizers.models.cosmos.layers import FactorizedConv, FrameNorm, make_conv, make_pointwise
from smalti.tokenizers.models.cosmos.levels import network_shape
from smalti.tokenizers.models.cosmos.resampling import ClipUpsample, ImageUpsample


class CosmosDecoder(Decoder):
    """Decodes one grid to images or clips.

        conv of size 1 -> conv -> residual block -> attention -> residual block -> per level [residual blocks -> upsampling]
          -> norm -> SiLU -> conv -> inverse Haar wavelets

    Args:
        in_dim: latent channels C, those of the bottleneck.
        stride: [T, H, W] pixels per latent position, powers of 2 with H = W; None for [1, 8, 8].
        z_channels: channels after the first convolution: 16; 256 in the published discrete tokenizers of images.
        channels: base number of channels; a multiple of 32 in networks for images.
        multipliers: channel multiplier of each level, from pixels to latents; None for [2, 4, 4].
        blocks: residual blocks per level of the encoder; each level of the decoder has one more.
        patch: frames, height and width of the patches, a power of 2.

    Raises:
        SmaltiError: the arguments do not describe a valid network.
    """

    bands_inside = True

    def __init__(
        self,
        in_dim: int,
        stride: tuple[int, int, int] | None = None,
        z_channels: int = 16,
        channels: int = 128,
        multipliers: list[int] | None = None,
        blocks: int = 2,
        patch: int = 4,
    ) -> None:
        super().__init__()
        shape = network_shape(channels, multipliers or [2, 4, 4], blocks, patch, stride or (1, 8, 8))
        video = self.video = shape.video
        self.in_dim = in_dim
        self.patch = patch
        previous = shape.widths[-1]
        self.head = make_pointwise(in_dim, z_channels, video)
        self.conv_in = make_conv(z_channels, previous, video)
        self.middle = MiddleBlocks(previous, video)
        self.levels = nn.ModuleList()
        for width, (space, frames) in zip(reversed(shape.widths), reversed(shape.up), strict=True):
            resample = None
            if space or frames:
                resample = ClipUpsample(width, space, frames) if video else ImageUpsample(width)
            self.levels.append(Level(previous, width, blocks + 1, video, resample))
            previous = width
        self.norm_out = FrameNorm(previous, video)
        self.conv_out = make_conv(previous, 3 * patch ** (3 if video else 2), video)
        init_weights(self)

    @property
    def last_layer(self) -> nn.Module:
        """The last convolution."""
        return self.conv_out.time if isinstance(self.conv_out, FactorizedConv) else self.conv_out

    @property
    def outer_layers(self) -> tuple[nn.Module, ...]:
        """The two first convolutions and the last."""
        return self.head, self.conv_in, self.conv_out

    def linear_start(self, pyramid: Pyramid, code: StartCode, latents: Sequence[tuple[Tensor, ...]]) -> Errors:
        """Set the weights so that the decoder reconstructs pixels from codewords, see `linear_start`."""
        from smalti.tokenizers.models.cosmos.linear_start import fit_decoder  # imports this module

        return fit_decoder(self, pyramid, code, [grid for (grid,) in latents])

    def forward(
        self, latents: tuple[Tensor, ...], generator: torch.Generator | None = None, state: StreamState | None = None
    ) -> Tensor:
        """Decode one grid (B, C, t, h, w) to (B, 3, T, H, W), not clamped."""
        state = StreamState(last=True) if state is None else state
        (z,) = latents
        if not self.video:
            return images_to_video(image_pixels(self._decode(video_to_images(z), state), self.patch), len(z))
        return clip_pixels(self, self._decode(channels_last_video(z), state), self.patch, state)

    def _decode(self, z: Tensor, state: StreamState) -> Tensor:
        h = self.middle(self.conv_in(self.head(z), state), state)
        for level in self.levels:
            h = level(h, state)
        return self.conv_out(F.silu(self.norm_out(h)), state)
