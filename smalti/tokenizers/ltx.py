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
from smalti.tokenizers.codec import Decoder, Encoder, State
from smalti.tokenizers.layers.block_lists import (
    DECODER_OPTIONS,
    ENCODER_OPTIONS,
    Blocks,
    decoder_block,
    encoder_block,
    read_blocks,
    total_stride,
)
from smalti.tokenizers.layers.denoising import (
    InjectedNoise,
    LatentStatistics,
    Pass,
    TimeEmbedding,
    modulations,
    sinusoids,
)
from smalti.tokenizers.layers.lookahead import EdgeConv3d, Padding
from smalti.tokenizers.layers.noise import drawing_device, normal, normal_like_frames
from smalti.tokenizers.layers.resample import blocks_to_channels, channels_to_blocks
from smalti.tokenizers.layers.stages import activated, initialise


def _check_shape(dim: int, channels: int, patch: int) -> None:
    if min(dim, channels, patch) < 1:
        raise SmaltiError(f"Latent channels {dim}, channels {channels} and patch {patch} must each be at least 1.")


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
        blocks: Blocks | None = None,
        patch: int = 4,
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        _check_shape(out_dim, channels, patch)
        read = read_blocks(blocks, ENCODER_OPTIONS)
        self.out_dim = out_dim
        self.patch = patch
        self.stride = total_stride(read, patch)
        self.conv_in = EdgeConv3d(3 * patch**2, channels, causal=True, padding=padding)
        self.blocks = nn.ModuleList()
        width = channels
        for block in read:
            self.blocks.append(encoder_block(block, width, padding))
            width *= block.multiplier
        self.conv_out = EdgeConv3d(width, out_dim, causal=True, padding=padding)
        initialise(self)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, ...]:
        """(B, 3, 1 + k s, H, W) in [-1, 1] to one grid (B, C, 1 + k, h, w); in later chunks of a stream k s frames to k."""
        step = Pass(State(last=True) if state is None else state)
        x = self.conv_in(_patches(x, self.patch), step.state)
        for block in self.blocks:
            x = block(x, step)
        return (self.conv_out(activated(x), step.state),)


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
        blocks: Blocks | None = None,
        patch: int = 4,
        causal: bool = False,
        padding: Padding = "zeros",
        timestep: float | None = None,
        noise: float = 0.0,
        training_noise: list[float] | None = None,
    ) -> None:
        super().__init__()
        _check_shape(in_dim, channels, patch)
        _check_noise(timestep, noise, training_noise)
        read = read_blocks(blocks, DECODER_OPTIONS)
        self.in_dim = in_dim
        self.patch = patch
        self.timestep, self.noise, self.training_noise = timestep, noise, training_noise
        self.statistics = LatentStatistics(in_dim)
        timed = timestep is not None
        width = channels * math.prod(block.multiplier for block in read)
        self.conv_in = EdgeConv3d(in_dim, width, causal=causal, padding=padding)
        self.blocks = nn.ModuleList()
        factor = 1
        for block in reversed(read):
            self.blocks.append(decoder_block(block, width, factor, timed=timed, causal=causal, padding=padding))
            width //= block.multiplier
            factor *= block.stride[1]
        self.conv_out = EdgeConv3d(width, 3 * patch**2, causal=causal, padding=padding)
        if timed:
            self.time_scale = nn.Parameter(torch.tensor(1000.0))
            self.time = TimeEmbedding(2 * width)
            self.table = nn.Parameter(torch.zeros(2, width))
        self.generative = timed or any(block.inject_noise for block in read)
        initialise(self)
        with torch.no_grad():
            self.conv_out.conv.weight.mul_(0.5)  # start near grey, not at random colours

    @property
    def final(self) -> nn.Module:
        """The last convolution."""
        return self.conv_out.conv

    def forward(
        self, maps: tuple[Tensor, ...], generator: torch.Generator | None = None, state: State | None = None
    ) -> Tensor:
        """One grid (B, Z, 1 + k, h, w) to (B, 3, 1 + k s, f h, f w).

        In a stream, a decoder that is not causal gives a chunk's last frames with the next chunk.
        """
        (z,) = maps
        state = State(last=True) if state is None else state
        strength, time = self._strength_and_time(z, generator, state)
        step = Pass(state, time, self._injected(z, generator, state))
        x = self.conv_in(self._noisy(z, strength, generator), state)
        for block in self.blocks:
            x = block(x, step)
        modulation = [] if time is None else modulations(self.table, self.time(time))
        return _pixels(self.conv_out(activated(x, *modulation), state), self.patch)

    def _strength_and_time(
        self, z: Tensor, generator: torch.Generator | None, state: State
    ) -> tuple[Tensor | None, Tensor | None]:
        """(B,) strengths of the noise, and (B, 256) sinusoids of the times, both None where the decoder knows no time."""
        if self.timestep is None:
            return None, None
        strength, time = z.new_full((len(z),), self.noise), z.new_full((len(z),), self.timestep)
        if self.training and self.training_noise is not None:
            drawn = state.kept((self, "time"))
            if drawn is None:
                low, high = self.training_noise
                drawn = torch.rand(len(z), generator=generator, device=drawing_device(z, generator)).to(z)
                drawn = drawn * (high - low) + low
                state.keep((self, "time"), drawn)
            strength = time = drawn
        # Angles go up to a thousand: half precision has no digits left for them.
        return strength, sinusoids(time.to(torch.promote_types(z.dtype, torch.float32)) * self.time_scale)

    def _injected(self, z: Tensor, generator: torch.Generator | None, state: State) -> dict[nn.Module, Tensor]:
        """The (H, W) map of each layer that adds noise, drawn where the clip begins."""
        noise: dict[nn.Module, Tensor] = {}
        for layer in self.modules():
            if isinstance(layer, InjectedNoise):
                kept = state.kept(layer)
                if kept is None:
                    kept = normal(z, (z.shape[3] * layer.factor, z.shape[4] * layer.factor), generator)
                    state.keep(layer, kept)
                noise[layer] = kept
        return noise

    def _noisy(self, z: Tensor, strength: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """The latent as z (1 - s) + n s, where n has the mean and the standard deviation of z's channels."""
        if strength is None or not z.shape[2]:
            return z
        noise = self.statistics.denormalized(normal_like_frames(z, generator))
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


def _patches(x: Tensor, patch: int) -> Tensor:
    """(B, 3, T, H, W) to (B, 3 p p, T, H / p, W / p); channels are ordered (colour, column, row), as published."""
    return blocks_to_channels(x.transpose(3, 4), (1, patch, patch)).transpose(3, 4)


def _pixels(x: Tensor, patch: int) -> Tensor:
    """The inverse of `_patches`."""
    return channels_to_blocks(x.transpose(3, 4), (1, patch, patch)).transpose(3, 4)
