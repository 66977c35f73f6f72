"""Causal video encoder and decoder of Wan2.1 (arXiv 2503.20314) and OneVAE (arXiv 2508.09857), as lists that are data.

A clip of 1 + k s frames becomes 1 + k latents. Frame 0 is coded alone, so that an image is a clip of one frame, and no
frame is seen by those before it, so that a clip can be coded in chunks. With first-frame strengthening (OneVAE, section
3) the first frame has a grid of its own, of twice the rows and columns.

Shapes: B batch, T frames, H, W pixels; t, h, w latent positions; s, f the strides in time and space; C channels, Z latent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import Encoder, StreamState
from smalti.tokenizers.layers.convolution import convolve
from smalti.tokenizers.models.onevae.blocks import (
    CausalResidualBlock,
    Strides,
    init_weights,
    last_index,
    level_widths,
    middle_blocks,
    norm_or_identity,
    run_layers,
)
from smalti.tokenizers.models.onevae.causal_conv import CausalConv3d
from smalti.tokenizers.models.onevae.resampling import Downsample


class OneVAEEncoder(Encoder):
    """Pixels to one grid, or with `first_frame` to two.

        causal conv3 -> [residual blocks -> down-sampling] a level, the last without it
          -> residual, attention within each frame, residual -> norm -> swish -> causal conv3 -> conv1

    With `first_frame`, the first frame leaves before the last down-sampling and runs through the layers after it alone: a
    grid (B, C, 1, 2 h, 2 w), which stands in the place of the ordinary grid's first latent.

    Args:
        out_dim: C, channels of a position: 2 Z where a KL follows, its means and log-variances.
        channels: width that the multipliers multiply.
        multipliers: one a level, from pixels to positions.
        strides: [time, space] of the down-sampling between each two levels, each 1 or 2.
        blocks: residual blocks a level.
        first_frame: give the first frame a grid of its own; the last of `strides` must halve space.
        norm: False leaves the norms out but for the attention's, which suits narrow networks: they have few channels to
            keep in what a norm takes away.

    Raises:
        SmaltiError: arguments that make no network.
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
        for level, wider in enumerate(widths):
            for _ in range(blocks):
                self.layers.append(CausalResidualBlock(width, wider, norm))
                width = wider
            if level < len(strides):
                self.layers.append(Downsample(width, *strides[level]))
        self.middle = middle_blocks(width, norm)
        self.norm_out = norm_or_identity(width, norm)
        self.conv_out = CausalConv3d(width, out_dim)
        self.head = nn.Conv3d(out_dim, out_dim, 1)
        init_weights(self)

    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, ...]:
        """(B, 3, 1 + k s, H, W) in [-1, 1] to one grid (B, C, 1 + k, h, w), or to two.

        With `first_frame` they are (B, C, 1, 2 h, 2 w) and (B, C, k, h, w).

        In a stream, chunks after the first have k s frames and give k latents. Grids without positions are left out.
        """
        state = StreamState(last=True) if state is None else state
        begins = state.is_first_chunk(self)
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last_3d), state)
        if not self.first_frame:
            return (self._finish(run_layers(self.layers, x, state), state),)
        split = last_index(self.layers, Downsample)
        x = run_layers(self.layers[:split], x, state)
        grids = (self._strengthened(x[:, :, :1], split),) if begins else ()
        if x.shape[2] == 1 and begins and state.last:
            return grids  # an image: nothing follows for which the ordinary latent would have to be seen
        h = self._finish(run_layers(self.layers[split:], x, state), state)
        h = h[:, :, 1:] if begins else h
        return (*grids, h) if h.shape[2] else grids

    def _strengthened(self, first: Tensor, split: int) -> Tensor:
        """The first frame's own grid: the same layers without the last down-sampling, as if there were no other frame."""
        alone = StreamState(last=True)
        return self._finish(run_layers(self.layers[split + 1 :], first, alone), alone)

    def _finish(self, x: Tensor, state: StreamState) -> Tensor:
        x = run_layers(self.middle, x, state)
        return convolve(self.head, self.conv_out(F.silu(self.norm_out(x)), state))
