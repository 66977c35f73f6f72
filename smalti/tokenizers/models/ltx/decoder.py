"""LTX-Video's encoder and decoder (arXiv 2501.00103): 32 x 32 x 8 pixels become one position, from lists of blocks.

A clip of 1 + 8 k frames becomes 1 + k latents. The encoder is causal. The decoder need not be: it then looks ahead, by one
frame a layer, and holds frames back in a stream. It may be the last step of denoising as well: it then sees the latent with
a little noise, and is told how much.

Shapes: B batch, T frames, H, W pixels; t, h, w latent positions; s, f the strides in time and space; C channels, Z latent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.tokenizers.base import Decoder, StreamState
from smalti.tokenizers.latent_statistics import LatentStatistics
from smalti.tokenizers.layers.noise import generator_device, randn, randn_per_frame
from smalti.tokenizers.models.ltx.block_context import BlockContext
from smalti.tokenizers.models.ltx.block_specs import DECODER_OPTIONS, BlockList, build_decoder_block, parse_blocks
from smalti.tokenizers.models.ltx.blocks import init_weights, norm_and_activate
from smalti.tokenizers.models.ltx.noise_injection import NoiseInjection
from smalti.tokenizers.models.ltx.patches import check_shape, unpatchify
from smalti.tokenizers.models.ltx.replication_pad_conv import Padding, ReplicationPadConv3d
from smalti.tokenizers.models.ltx.timestep import TimestepEmbedding, modulation, sinusoidal_embedding


class LTXDecoder(Decoder):
    """One grid to pixels; with a `timestep`, the last step of denoising too.

        [noise] -> conv3 -> blocks, from the last to the first -> pixel norm -> [scale, shift by time] -> swish -> conv3
          -> channels to patches

    The noisy latent is z (1 - s) + n s, where z is normalized by the statistics of its channels and n is standard normal
    (arXiv 2501.00103, section 2.3). In a stream z's noise is drawn latent by latent, and the maps that blocks inject at its
    beginning, so that a seed gives the chunks of a clip the noise of the whole.

    Args:
        in_dim: Z, channels of a position.
        channels: width of the first block, which runs last.
        blocks: [name, options] each, from pixels to positions, run from the last to the first; None: those of 0.9.0.
            res_x: `num_layers` residual blocks, which add noise where `inject_noise`.
            res_x_y: one, from `multiplier` (2) times the channels.
            compress_all, compress_time, compress_space: twice the positions along these axes, from `multiplier` (1) times
                the channels; where `residual`, the unfolded input is added.
        patch: rows and columns of a patch.
        causal: do not look ahead.
        padding: of space, in all convolutions.
        timestep: the time t that the decoder is told in evaluation, 0.05 as published; None: it is told none.
        noise: the strength s of the noise in evaluation, in [0, 1], 0.025 as published; needs a timestep.
        training_noise: from where to where a sample's s = t is drawn in training, [0, 0.2] as published; None: it is as in
            evaluation.

    Attributes:
        statistics: mean and standard deviation of each channel of z, by which noise is mixed in.

    Raises:
        SmaltiError: arguments that make no network.
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 128,
        blocks: BlockList | None = None,
        patch: int = 4,
        causal: bool = False,
        padding: Padding = "zeros",
        timestep: float | None = None,
        noise: float = 0.0,
        training_noise: list[float] | None = None,
    ) -> None:
        super().__init__()
        check_shape(in_dim, channels, patch)
        _check_noise(timestep, noise, training_noise)
        read = parse_blocks(blocks, DECODER_OPTIONS)
        self.in_dim = in_dim
        self.patch = patch
        self.timestep, self.noise, self.training_noise = timestep, noise, training_noise
        self.statistics = LatentStatistics(in_dim)
        timed = timestep is not None
        width = channels * math.prod(block.multiplier for block in read)
        self.conv_in = ReplicationPadConv3d(in_dim, width, causal=causal, padding=padding)
        self.blocks = nn.ModuleList()
        factor = 1
        for block in reversed(read):
            self.blocks.append(build_decoder_block(block, width, factor, timed=timed, causal=causal, padding=padding))
            width //= block.multiplier
            factor *= block.stride[1]
        self.conv_out = ReplicationPadConv3d(width, 3 * patch**2, causal=causal, padding=padding)
        if timed:
            self.time_scale = nn.Parameter(torch.tensor(1000.0))
            self.time = TimestepEmbedding(2 * width)
            self.table = nn.Parameter(torch.zeros(2, width))
        self.generative = timed or any(block.inject_noise for block in read)
        init_weights(self)
        with torch.no_grad():
            self.conv_out.conv.weight.mul_(0.5)  # start near grey, not at random colours

    @property
    def last_layer(self) -> nn.Module:
        """The last convolution."""
        return self.conv_out.conv

    def forward(
        self, latents: tuple[Tensor, ...], generator: torch.Generator | None = None, state: StreamState | None = None
    ) -> Tensor:
        """One grid (B, Z, 1 + k, h, w) to (B, 3, 1 + k s, f h, f w).

        In a stream, a decoder that is not causal gives a chunk's last frames with the next chunk.
        """
        (z,) = latents
        state = StreamState(last=True) if state is None else state
        strength, time = self._strength_and_time(z, generator, state)
        context = BlockContext(state, time, self._injected(z, generator, state))
        x = self.conv_in(self._noisy(z, strength, generator), state)
        for block in self.blocks:
            x = block(x, context)
        shift_and_scale = [] if time is None else modulation(self.table, self.time(time))
        return unpatchify(self.conv_out(norm_and_activate(x, *shift_and_scale), state), self.patch)

    def _strength_and_time(
        self, z: Tensor, generator: torch.Generator | None, state: StreamState
    ) -> tuple[Tensor | None, Tensor | None]:
        """(B,) strengths of the noise, and (B, 256) sinusoids of the times, both None where the decoder knows no time."""
        if self.timestep is None:
            return None, None
        strength, time = z.new_full((len(z),), self.noise), z.new_full((len(z),), self.timestep)
        if self.training and self.training_noise is not None:
            drawn = state.load((self, "time"))
            if drawn is None:
                low, high = self.training_noise
                drawn = torch.rand(len(z), generator=generator, device=generator_device(z, generator)).to(z)
                drawn = drawn * (high - low) + low
                state.store((self, "time"), drawn)
            strength = time = drawn
        # Angles go up to a thousand: half precision has no digits left for them.
        return strength, sinusoidal_embedding(time.to(torch.promote_types(z.dtype, torch.float32)) * self.time_scale)

    def _injected(self, z: Tensor, generator: torch.Generator | None, state: StreamState) -> dict[nn.Module, Tensor]:
        """The (H, W) map of each layer that adds noise, drawn where the clip begins."""
        noise: dict[nn.Module, Tensor] = {}
        for layer in self.modules():
            if isinstance(layer, NoiseInjection):
                kept = state.load(layer)
                if kept is None:
                    kept = randn(z, (z.shape[3] * layer.factor, z.shape[4] * layer.factor), generator)
                    state.store(layer, kept)
                noise[layer] = kept
        return noise

    def _noisy(self, z: Tensor, strength: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """The latent as z (1 - s) + n s, where n has the mean and the standard deviation of z's channels."""
        if strength is None or not z.shape[2]:
            return z
        noise = self.statistics.denormalized(randn_per_frame(z, generator))
        return torch.lerp(z, noise, strength[:, None, None, None, None])


def _check_noise(timestep: float | None, noise: float, training_noise: list[float] | None) -> None:
    if timestep is None and (noise or training_noise is not None):
        raise SmaltiError(
            "noise and training_noise are of a decoder that is told a time: give it a timestep, like 0.05."
        )
    low, high = (0.0, 0.0) if training_noise is None else training_noise
    if not (0 <= noise <= 1 and 0 <= low <= high <= 1):
        raise SmaltiError(
            f"noise {noise} and both ends of training_noise {training_noise} must be in [0, 1], in order."
        )
