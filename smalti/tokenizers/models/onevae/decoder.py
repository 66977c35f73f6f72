"""Causal video encoder and decoder of Wan2.1 (arXiv 2503.20314) and OneVAE (arXiv 2508.09857), as lists that are data.

A clip of 1 + k s frames becomes 1 + k latents. Frame 0 is coded alone, so that an image is a clip of one frame, and no
frame is seen by those before it, so that a clip can be coded in chunks. With first-frame strengthening (OneVAE, section
3) the first frame has a grid of its own, of twice the rows and columns.

Shapes: B batch, T frames, H, W pixels; t, h, w latent positions; s, f the strides in time and space; C channels, Z latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import Decoder, StreamState
from smalti.tokenizers.layers.convolution import convolve, per_frame
from smalti.tokenizers.models.onevae.blocks import (
    CausalResidualBlock,
    Strides,
    first_index,
    init_weights,
    level_widths,
    middle_blocks,
    norm_or_identity,
    run_layers,
)
from smalti.tokenizers.models.onevae.causal_conv import CausalConv3d
from smalti.tokenizers.models.onevae.resampling import StridedConv2d, Upsample


class OneVAEDecoder(Decoder):
    """The encoder's grids to pixels.

        conv1 -> causal conv3 -> residual, attention within each frame, residual
          -> [residual blocks -> up-sampling] a level, the last without it -> norm -> swish -> causal conv3

    With `first_frame`, a convolution of stride 2 makes the first frame's grid the latent 0 of the ordinary one, whose
    frames look back on it; besides, it runs through the layers before the first up-sampling by itself, and takes frame
    0's place after it.

    Args:
        in_dim: Z, channels of a position.
        channels: width that the multipliers multiply.
        multipliers: one a level, from pixels to positions (run from the last to the first), as the encoder's.
        strides: as the encoder's.
        blocks: as the encoder's; a level of the decoder has one more.
        first_frame: as the encoder's.
        norm: as the encoder's.

    Raises:
        SmaltiError: arguments that make no network.
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
            self.conv_out.weight.mul_(0.1)  # start near grey, not at random colours

    @property
    def last_layer(self) -> nn.Module:
        """The last convolution."""
        return self.conv_out

    def forward(
        self, latents: tuple[Tensor, ...], generator: torch.Generator | None = None, state: StreamState | None = None
    ) -> Tensor:
        """The encoder's grids to (B, 3, 1 + k s, f h, f w); in a stream, k latents after the first chunk are k s frames."""
        state = StreamState(last=True) if state is None else state
        begins = state.is_first_chunk(self)
        if not (self.first_frame and begins):
            (grid,) = latents
            return self._finish(self.layers, self._deep(convolve(self.head, grid), state), state)
        first, *rest = latents
        split = first_index(self.layers, Upsample)
        shallow = self._alone(first, split)
        if rest or not state.last:
            joined = torch.cat(
                [per_frame(self.first_to_latent, first), *(convolve(self.head, grid) for grid in rest)], dim=2
            )
            h = run_layers(self.layers[: split + 1], self._deep(joined, state), state)
            shallow = torch.cat([shallow, h[:, :, 1:]], dim=2)
        return self._finish(self.layers[split + 1 :], shallow, state)

    def _alone(self, first: Tensor, split: int) -> Tensor:
        """The first frame's grid (B, Z, 1, 2 h, 2 w) where frame 0 stands after the first up-sampling."""
        alone = StreamState(last=True)
        return per_frame(self.first_to_frame, run_layers(self.layers[:split], self._deep(first, alone), alone))

    def _deep(self, z: Tensor, state: StreamState) -> Tensor:
        z = z.contiguous(memory_format=torch.channels_last_3d)
        return run_layers(self.middle, self.conv_in(z, state), state)

    def _finish(self, layers: nn.ModuleList, x: Tensor, state: StreamState) -> Tensor:
        x = run_layers(layers, x, state)
        return self.conv_out(F.silu(self.norm_out(x)), state)
