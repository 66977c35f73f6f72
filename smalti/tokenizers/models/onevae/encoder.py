"""The causal video encoder of Wan2.1 (arXiv 2503.20314) and OneVAE (arXiv 2508.09857).

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; s temporal and f spatial stride; C latent channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import Encoder, StreamState
from smalti.tokenizers.layers.convolution import convolve
from smalti.tokenizers.layers.frames import channels_last_video
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import Errors
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.models.onevae.blocks import CausalResidualBlock, layer_indices, middle_blocks, run_layers
from smalti.tokenizers.models.onevae.causal_conv import CausalConv3d
from smalti.tokenizers.models.onevae.initialization import init_weights
from smalti.tokenizers.models.onevae.levels import Strides, level_widths
from smalti.tokenizers.models.onevae.norms import RMSNorm, norm_or_identity
from smalti.tokenizers.models.onevae.resampling import Downsample
from smalti.types import Grids


class OneVAEEncoder(Encoder):
    """Encodes a clip to one grid, or to two grids with `first_frame`.

        causal conv 3x3x3 -> per level [residual blocks -> downsampling, except in the last level]
          -> residual block -> attention within each frame -> residual block
          -> norm -> SiLU -> causal conv 3x3x3 -> conv 1x1x1

    With `first_frame`, frame 0 is also encoded alone, without the last downsampling. This gives a grid (B, C, 1, 2 h, 2 w),
    which replaces the first latent of the ordinary grid.

    Args:
        out_dim: output channels C: 2 Z for a `KL` with Z latent channels (means and log-variances).
        channels: base number of channels.
        multipliers: channel multiplier of each level, from pixels to latents; None for [1, 2, 4, 4].
        strides: [time, space] strides of the downsampling layers between levels, each 1 or 2; None for
            [[1, 2], [2, 2], [2, 2]].
        blocks: residual blocks per level.
        first_frame: whether the first frame has a separate grid, which requires a spatial stride of 2 in the last of
            `strides`.
        norm: whether the network has norms. False removes all norms except the one before attention, recommended for narrow
            networks, which have few channels to preserve the magnitude that a norm removes.

    Raises:
        SmaltiError: the arguments do not describe a valid network.
    """

    def __init__(
        self,
        out_dim: int,
        channels: int = 96,
        multipliers: list[int] | None = None,
        strides: Strides | None = None,
        blocks: int = 2,
        first_frame: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        widths, strides = level_widths(channels, multipliers, strides, blocks, first_frame)
        self.first_frame = first_frame
        self.out_dim = out_dim
        space = math.prod(pair[1] for pair in strides)
        self.stride = (math.prod(pair[0] for pair in strides), space, space)
        self.conv_in = CausalConv3d(3, channels)
        self.layers = nn.ModuleList()
        width = channels
        for level, level_width in enumerate(widths):
            for _ in range(blocks):
                self.layers.append(CausalResidualBlock(width, level_width, norm))
                width = level_width
            if level < len(strides):
                self.layers.append(Downsample(width, *strides[level]))
        self.middle = middle_blocks(width, norm)
        self.norm_out = norm_or_identity(width, norm)
        self.conv_out = CausalConv3d(width, out_dim)
        self.head = nn.Conv3d(out_dim, out_dim, 1)
        init_weights(self)

    @property
    def outer_layers(self) -> tuple[nn.Module, ...]:
        """The first convolution and the two last."""
        return self.conv_in, self.conv_out, self.head

    @property
    def hidden_units(self) -> int:
        """Channels before the last SiLU; 0 with norms."""
        return 0 if isinstance(self.norm_out, RMSNorm) else self.conv_out.in_channels

    def linear_start(self, pyramid: Pyramid, code: StartCode) -> Errors:
        """Set the weights so that the encoder computes a code of principal components, see `linear_start`."""
        from smalti.tokenizers.models.onevae.linear_start import fit_encoder  # imports this module

        return fit_encoder(self, pyramid, code)

    def latent_grids(self, size: tuple[int, int, int]) -> Grids:
        """Return the (t, h, w) of the grids that `forward` returns for a whole clip."""
        ((t, h, w),) = super().latent_grids(size)
        if not self.first_frame:
            return ((t, h, w),)
        first = (1, 2 * h, 2 * w)
        return (first, (t - 1, h, w)) if t > 1 else (first,)

    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, ...]:
        """Encode (B, 3, 1 + k s, H, W) in [-1, 1] to one grid (B, C, 1 + k, h, w).

        With `first_frame`, returns two grids: (B, C, 1, 2 h, 2 w) and (B, C, k, h, w). Empty grids are omitted.

        In a stream, later chunks have k s frames and give k latents.
        """
        state = StreamState(last=True) if state is None else state
        first_chunk = state.is_first_chunk(self)
        x = self.conv_in(channels_last_video(x), state)
        if not self.first_frame:
            return (self._encode_output(run_layers(self.layers, x, state), state),)
        last_downsample = layer_indices(self.layers, Downsample)[-1]
        x = run_layers(self.layers[:last_downsample], x, state)
        grids = (self._encode_first_frame(x[:, :, :1], last_downsample),) if first_chunk else ()
        exporting = (
            torch.compiler.is_exporting()
        )  # one graph for images and clips, in which the second grid may be empty
        if not exporting and x.shape[2] == 1 and first_chunk and state.last:
            return grids  # an image: no later frame needs the ordinary latent of frame 0
        h = self._encode_output(run_layers(self.layers[last_downsample:], x, state), state)
        h = h[:, :, 1:] if first_chunk else h
        if exporting:
            return (*grids, h)
        return (*grids, h) if h.shape[2] else grids

    def _encode_first_frame(self, first: Tensor, last_downsample: int) -> Tensor:
        """Encode the features of frame 0 to its separate grid, without the last downsampling."""
        state = StreamState(last=True)
        return self._encode_output(run_layers(self.layers[last_downsample + 1 :], first, state), state)

    def _encode_output(self, x: Tensor, state: StreamState) -> Tensor:
        """Apply all layers after the levels."""
        x = run_layers(self.middle, x, state)
        return convolve(self.head, self.conv_out(F.silu(self.norm_out(x)), state))
