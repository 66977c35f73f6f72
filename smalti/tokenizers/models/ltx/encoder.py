"""LTX-Video's encoder and decoder (arXiv 2501.00103): 32 x 32 x 8 pixels become one position, from lists of blocks.

A clip of 1 + 8 k frames becomes 1 + k latents. The encoder is causal. The decoder need not be: it then looks ahead, by one
frame a layer, and holds frames back in a stream. It may be the last step of denoising as well: it then sees the latent with
a little noise, and is told how much.

Shapes: B batch, T frames, H, W pixels; t, h, w latent positions; s, f the strides in time and space; C channels, Z latent.
"""

from __future__ import annotations

from torch import Tensor, nn

from smalti.tokenizers.base import Encoder, StreamState
from smalti.tokenizers.models.ltx.block_context import BlockContext
from smalti.tokenizers.models.ltx.block_specs import (
    ENCODER_OPTIONS,
    BlockList,
    build_encoder_block,
    parse_blocks,
    total_stride,
)
from smalti.tokenizers.models.ltx.blocks import init_weights, norm_and_activate
from smalti.tokenizers.models.ltx.patches import check_shape, patchify
from smalti.tokenizers.models.ltx.replication_pad_conv import Padding, ReplicationPadConv3d


class LTXEncoder(Encoder):
    """Pixels to one grid.

        patches to channels -> causal conv3 -> blocks -> pixel norm -> swish -> causal conv3

    Args:
        out_dim: C, channels of a position: Z + 1 where a KL with one shared log-variance follows.
        channels: width of the first block.
        blocks: [name, options] each, from pixels to positions; None: those of 0.9.0.
            res_x: `num_layers` residual blocks.
            res_x_y: one, to `multiplier` (2) times the channels.
            compress_all, compress_time, compress_space: half the positions along these axes, by a strided convolution.
            compress_all_res, ...: the same by folding positions into channels, to `multiplier` (2) times the channels.
        patch: rows and columns of a patch.
        padding: of space, in all convolutions.

    Raises:
        SmaltiError: arguments that make no network.
    """

    def __init__(
        self,
        out_dim: int,
        channels: int = 128,
        blocks: BlockList | None = None,
        patch: int = 4,
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        check_shape(out_dim, channels, patch)
        read = parse_blocks(blocks, ENCODER_OPTIONS)
        self.out_dim = out_dim
        self.patch = patch
        self.stride = total_stride(read, patch)
        self.conv_in = ReplicationPadConv3d(3 * patch**2, channels, causal=True, padding=padding)
        self.blocks = nn.ModuleList()
        width = channels
        for block in read:
            self.blocks.append(build_encoder_block(block, width, padding))
            width *= block.multiplier
        self.conv_out = ReplicationPadConv3d(width, out_dim, causal=True, padding=padding)
        init_weights(self)

    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, ...]:
        """(B, 3, 1 + k s, H, W) in [-1, 1] to one grid (B, C, 1 + k, h, w); in later chunks of a stream k s frames to k."""
        context = BlockContext(StreamState(last=True) if state is None else state)
        x = self.conv_in(patchify(x, self.patch), context.state)
        for block in self.blocks:
            x = block(x, context)
        return (self.conv_out(norm_and_activate(x), context.state),)
