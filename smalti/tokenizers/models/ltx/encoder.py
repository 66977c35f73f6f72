"""LTX-Video's encoder.

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; s temporal and f spatial stride; C latent channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from smalti.tokenizers.base import Encoder, StreamState
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import Errors
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.models.ltx.argument_checks import check_dimensions
from smalti.tokenizers.models.ltx.block_builders import build_encoder_block
from smalti.tokenizers.models.ltx.block_context import BlockContext
from smalti.tokenizers.models.ltx.block_specs import ENCODER_OPTIONS, BlockList, parse_blocks, total_stride
from smalti.tokenizers.models.ltx.initialization import init_weights
from smalti.tokenizers.models.ltx.pixel_norm import norm_and_activate
from smalti.tokenizers.models.ltx.replication_pad_conv import Padding, ReplicationPadConv3d
from smalti.tokenizers.models.ltx.space_to_depth import patchify


class LTXEncoder(Encoder):
    """Encodes a clip causally to one grid.

        patches to channels -> conv 3x3x3 -> blocks -> pixel norm -> SiLU -> conv 3x3x3

    Args:
        out_dim: output channels C: Z + 1 for a `KL` with Z latent channels and a shared log-variance.
        channels: channels of the first block.
        blocks: [name, options] of each block, from pixels to latents; None for the blocks of LTX-Video 0.9.0.
            res_x: `num_layers` (1) residual blocks.
            res_x_y: one residual block that multiplies the channels by `multiplier` (2).
            compress_all, compress_time, compress_space: downsampling by 2 along these axes with a strided convolution.
            compress_all_res, compress_time_res, compress_space_res: downsampling by 2 with space-to-depth and a residual
                connection, which multiplies the channels by `multiplier` (2).
        patch: height and width of a patch in pixels.
        padding: spatial padding of all convolutions, "zeros" or "replicate".

    Raises:
        SmaltiError: the arguments do not describe a valid network.
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
        check_dimensions(out_dim, channels, patch)
        specs = parse_blocks(blocks, ENCODER_OPTIONS)
        self.out_dim = out_dim
        self.patch = patch
        self.stride = total_stride(specs, patch)
        self.conv_in = ReplicationPadConv3d(3 * patch**2, channels, causal=True, padding=padding)
        self.blocks = nn.ModuleList()
        width = channels
        for spec in specs:
            self.blocks.append(build_encoder_block(spec, width, padding))
            width *= spec.multiplier
        self.conv_out = ReplicationPadConv3d(width, out_dim, causal=True, padding=padding)
        init_weights(self)

    @property
    def outer_layers(self) -> tuple[nn.Module, ...]:
        """The first and the last convolution."""
        return self.conv_in, self.conv_out

    @property
    def hidden_units(self) -> int:
        """0: pixel norm precedes the last SiLU."""
        return 0

    def linear_start(self, pyramid: Pyramid, code: StartCode) -> Errors:
        """Set the weights so that the encoder computes a code of principal components, see `linear_start`."""
        from smalti.tokenizers.models.ltx.linear_start import fit_encoder  # imports this module

        return fit_encoder(self, pyramid, code)

    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, ...]:
        """Encode (B, 3, 1 + k s, H, W) in [-1, 1] to one grid (B, C, 1 + k, h, w).

        In a stream, later chunks have k s frames and give k latents.
        """
        context = BlockContext(StreamState(last=True) if state is None else state)
        x = self.conv_in(patchify(x, self.patch), context.state)
        for block in self.blocks:
            x = block(x, context)
        return (self.conv_out(norm_and_activate(x), context.state),)
