"""The causal video decoder of Wan2.1 (arXiv 2503.20314) and OneVAE (arXiv 2508.09857).

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; s temporal and f spatial stride; Z latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import Decoder, StreamState
from smalti.tokenizers.layers.convolution import convolve
from smalti.tokenizers.layers.frames import apply_per_frame, channels_last_video
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import Errors
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.models.onevae.blocks import CausalResidualBlock, layer_indices, middle_blocks, run_layers
from smalti.tokenizers.models.onevae.causal_conv import CausalConv3d
from smalti.tokenizers.models.onevae.initialization import init_weights
from smalti.tokenizers.models.onevae.levels import Strides, level_widths
from smalti.tokenizers.models.onevae.norms import norm_or_identity
from smalti.tokenizers.models.onevae.resampling import StridedConv2d, Upsample


class OneVAEDecoder(Decoder):
    """Decodes the encoder's grids to a clip.

        conv 1x1x1 -> causal conv 3x3x3 -> residual block -> attention within each frame -> residual block
          -> per level [residual blocks -> upsampling, except in the last level] -> norm -> SiLU -> causal conv 3x3x3

    With `first_frame`, the first frame's grid is used twice. A convolution with stride 2 reduces it to latent 0 of the
    ordinary grid, on which later frames depend. It also passes alone through the layers before the first upsampling, and
    the result replaces frame 0 after that upsampling.

    Args:
        in_dim: latent channels Z.
        channels: base number of channels.
        multipliers: channel multiplier of each level, from pixels to latents as in the encoder; the levels run in reverse
            order. None for [1, 2, 4, 4].
        strides: see `OneVAEEncoder`.
        blocks: number of residual blocks per level of the encoder; each level of the decoder has one more.
        first_frame: see `OneVAEEncoder`.
        norm: see `OneVAEEncoder`.

    Raises:
        SmaltiError: the arguments do not describe a valid network.
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 96,
        multipliers: list[int] | None = None,
        strides: Strides | None = None,
        blocks: int = 2,
        first_frame: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        widths, strides = level_widths(channels, multipliers, strides, blocks, first_frame)
        self.in_dim = in_dim
        self.first_frame = first_frame
        width = widths[-1]
        self.head = nn.Conv3d(in_dim, in_dim, 1)
        self.conv_in = CausalConv3d(in_dim, width)
        self.middle = middle_blocks(width, norm)
        self.layers = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for _ in range(blocks + 1):
                self.layers.append(CausalResidualBlock(width, widths[level], norm))
                width = widths[level]
            if level:
                self.layers.append(Upsample(width, *strides[level - 1]))
                width //= strides[level - 1][1]
        if first_frame:
            self.first_to_latent = StridedConv2d(in_dim)
            self.first_to_frame = nn.Conv2d(widths[-1], widths[-1] // 2, 1)
        self.norm_out = norm_or_identity(width, norm)
        self.conv_out = CausalConv3d(width, 3)
        init_weights(self)
        with torch.no_grad():
            self.conv_out.weight.mul_(0.1)  # start near gray and not at random colors

    @property
    def last_layer(self) -> nn.Module:
        """The last convolution."""
        return self.conv_out

    @property
    def outer_layers(self) -> tuple[nn.Module, ...]:
        """The two first convolutions, for the first frame's grid too, and the last."""
        first_frame = (self.first_to_latent,) if self.first_frame else ()
        return (self.head, self.conv_in, *first_frame, self.conv_out)

    def linear_start(self, pyramid: Pyramid, code: StartCode, latents: Sequence[tuple[Tensor, ...]]) -> Errors:
        """Set the weights so that the decoder reconstructs pixels from codewords, see `linear_start`."""
        from smalti.tokenizers.models.onevae.linear_start import fit_decoder  # imports this module

        return fit_decoder(self, pyramid, code, latents)

    def forward(
        self, latents: tuple[Tensor, ...], generator: torch.Generator | None = None, state: StreamState | None = None
    ) -> Tensor:
        """Decode the encoder's grids, with 1 + k latents in time, to (B, 3, 1 + k s, f h, f w).

        In a stream, k latents in a later chunk give k s frames.
        """
        state = StreamState(last=True) if state is None else state
        if not (state.is_first_chunk(self) and self.first_frame):
            (grid,) = latents
            return self._decode_output(self.layers, self._decode_input(convolve(self.head, grid), state), state)
        first, *rest = latents
        first_upsample = layer_indices(self.layers, Upsample)[0]
        h = self._decode_first_frame(first, first_upsample)
        if rest or not state.last:
            latent_0 = apply_per_frame(self.first_to_latent, first)
            if torch.compiler.is_exporting():  # the second grid of an image is empty, which Conv3d rejects
                rest = [convolve(self.head, torch.cat([latent_0, *rest], dim=2))[:, :, 1:]]
            else:
                rest = [convolve(self.head, grid) for grid in rest]
            z = torch.cat([latent_0, *rest], dim=2)
            frames = run_layers(self.layers[: first_upsample + 1], self._decode_input(z, state), state)
            h = torch.cat([h, frames[:, :, 1:]], dim=2)
        return self._decode_output(self.layers[first_upsample + 1 :], h, state)

    def _decode_first_frame(self, first: Tensor, first_upsample: int) -> Tensor:
        """Map the first frame's grid (B, Z, 1, 2 h, 2 w) to features of frame 0 after the first upsampling."""
        state = StreamState(last=True)
        h = run_layers(self.layers[:first_upsample], self._decode_input(first, state), state)
        return apply_per_frame(self.first_to_frame, h)

    def _decode_input(self, z: Tensor, state: StreamState) -> Tensor:
        """Apply all layers between the 1x1x1 convolution and the levels."""
        return run_layers(self.middle, self.conv_in(channels_last_video(z), state), state)

    def _decode_output(self, layers: nn.ModuleList, x: Tensor, state: StreamState) -> Tensor:
        """Apply the given layers of the levels and all layers after the levels."""
        x = run_layers(layers, x, state)
        return self.conv_out(F.silu(self.norm_out(x)), state)
