"""LTX-Video's decoder, which can also perform the last denoising step.

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; s temporal and f spatial stride; Z latent channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smalti.tokenizers.base import Decoder, StreamState
from smalti.tokenizers.latent_statistics import LatentStatistics
from smalti.tokenizers.layers.noise import generator_device, randn, randn_per_frame
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import Errors
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.models.ltx.argument_checks import check_dimensions, check_noise
from smalti.tokenizers.models.ltx.block_builders import build_decoder_block
from smalti.tokenizers.models.ltx.block_context import BlockContext
from smalti.tokenizers.models.ltx.block_specs import DECODER_OPTIONS, BlockList, parse_blocks
from smalti.tokenizers.models.ltx.initialization import init_weights
from smalti.tokenizers.models.ltx.noise_injection import NoiseInjection
from smalti.tokenizers.models.ltx.pixel_norm import norm_and_activate
from smalti.tokenizers.models.ltx.replication_pad_conv import Padding, ReplicationPadConv3d
from smalti.tokenizers.models.ltx.space_to_depth import unpatchify
from smalti.tokenizers.models.ltx.timestep import TimestepEmbedding, modulation, sinusoidal_embedding


class LTXDecoder(Decoder):
    """Decodes one grid to a clip. With a `timestep`, it also performs the last denoising step.

        [add noise] -> conv 3x3x3 -> blocks in reverse order -> pixel norm -> [scale and shift by timestep] -> SiLU
          -> conv 3x3x3 -> channels to patches

    The noisy latent is (1 - sigma) z + sigma n (arXiv 2501.00103, section 2.3), where n is normal noise with the mean and
    the standard deviation of each latent channel (`statistics`). The noise n is drawn per latent frame, and the noise that
    blocks inject is drawn once per clip. With the same seed, the chunks of a clip get the same noise as the whole clip.

    Args:
        in_dim: latent channels Z.
        channels: output channels of the block next to the pixels.
        blocks: [name, options] of each block, from pixels to latents; they run in reverse order. None for the blocks of
            LTX-Video 0.9.0.
            res_x: `num_layers` (1) residual blocks, which inject noise if `inject_noise` (false).
            res_x_y: one residual block that divides the channels by `multiplier` (2); injects noise if `inject_noise`
                (false).
            compress_all, compress_time, compress_space: upsampling by 2 along these axes, which divides the channels by
                `multiplier` (1), with a residual connection if `residual` (false).
        patch: height and width of a patch in pixels.
        causal: whether all convolutions are causal; if False, each looks one frame ahead.
        padding: spatial padding of all convolutions, "zeros" or "replicate".
        timestep: timestep t in evaluation mode, published as 0.05; None: the decoder is not conditioned on a timestep.
        noise: noise level sigma in evaluation mode, in [0, 1], published as 0.025. Requires `timestep`.
        training_noise: [low, high] of the uniform distribution from which sigma = t is drawn per sample in training mode,
            published as [0, 0.2]. None: as in evaluation mode. Requires `timestep`.

    Attributes:
        statistics: mean and standard deviation of each channel of z.

    Raises:
        SmaltiError: the arguments do not describe a valid network.
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
        check_dimensions(in_dim, channels, patch)
        check_noise(timestep, noise, training_noise)
        specs = parse_blocks(blocks, DECODER_OPTIONS)
        self.in_dim = in_dim
        self.patch = patch
        self.timestep, self.noise, self.training_noise = timestep, noise, training_noise
        self.statistics = LatentStatistics(in_dim)
        conditioned = timestep is not None
        width = channels * math.prod(spec.multiplier for spec in specs)
        self.conv_in = ReplicationPadConv3d(in_dim, width, causal=causal, padding=padding)
        self.blocks = nn.ModuleList()
        factor = 1
        for spec in reversed(specs):
            self.blocks.append(
                build_decoder_block(
                    spec, width, factor, timestep_conditioning=conditioned, causal=causal, padding=padding
                )
            )
            width //= spec.multiplier
            factor *= spec.stride[1]
        self.conv_out = ReplicationPadConv3d(width, 3 * patch**2, causal=causal, padding=padding)
        if conditioned:
            self.time_scale = nn.Parameter(torch.tensor(1000.0))
            self.time = TimestepEmbedding(2 * width)
            self.table = nn.Parameter(torch.zeros(2, width))
        self.generative = conditioned or any(spec.inject_noise for spec in specs)
        init_weights(self)
        with torch.no_grad():
            self.conv_out.conv.weight.mul_(0.5)  # start near gray and not at random colors

    @property
    def last_layer(self) -> nn.Module:
        """The last convolution."""
        return self.conv_out.conv

    @property
    def outer_layers(self) -> tuple[nn.Module, ...]:
        """The first and the last convolution, and the embeddings of the timestep."""
        embeddings = (module for module in self.modules() if isinstance(module, TimestepEmbedding))
        return (self.conv_in, self.conv_out, *embeddings)

    def linear_start(self, pyramid: Pyramid, code: StartCode, latents: Sequence[tuple[Tensor, ...]]) -> Errors:
        """Set the weights so that the decoder reconstructs pixels from a code by least squares, see `linear_start`."""
        from smalti.tokenizers.models.ltx.linear_start import fit_decoder  # imports this module

        return fit_decoder(self, pyramid, [z for (z,) in latents])

    def forward(
        self, latents: tuple[Tensor, ...], generator: torch.Generator | None = None, state: StreamState | None = None
    ) -> Tensor:
        """Decode one grid (B, Z, 1 + k, h, w) to (B, 3, 1 + k s, f h, f w).

        In a stream, k latents in a later chunk give k s frames. If the decoder is not causal, it returns the last frames of
        a chunk together with the next chunk.
        """
        (z,) = latents
        state = StreamState(last=True) if state is None else state
        z, context = self.prepare(z, generator, state)
        x = self.conv_in(z, state)
        for block in self.blocks:
            x = block(x, context)
        x = self.activate(x, context)  # statements of their own: each frees its input
        x = self.conv_out(x, state)
        return unpatchify(x, self.patch)

    def prepare(self, z: Tensor, generator: torch.Generator | None, state: StreamState) -> tuple[Tensor, BlockContext]:
        """Add noise to z (B, Z, t, h, w). Return it and the inputs that all blocks share. Draws from `generator`."""
        noise_level, timestep = self._condition(z, generator, state)
        context = BlockContext(state, timestep, self._draw_injected_noise(z, generator, state))
        return self._add_noise(z, noise_level, generator), context

    def activate(self, x: Tensor, context: BlockContext) -> Tensor:
        """Apply the last pixel norm, modulated by the timestep, and SiLU to features (B, C, T, H, W)."""
        if context.timestep is None:
            return norm_and_activate(x)
        return norm_and_activate(x, *modulation(self.table, self.time(context.timestep)))

    def _condition(
        self, z: Tensor, generator: torch.Generator | None, state: StreamState
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return noise levels (B,) and embeddings of timesteps (B, 256); both are None without timestep conditioning."""
        if self.timestep is None:
            return None, None
        batch = z.shape[0]  # len(z) would be constant in an exported program
        noise_level, timestep = z.new_full((batch,), self.noise), z.new_full((batch,), self.timestep)
        if self.training and self.training_noise is not None:
            drawn = state.load((self, "time"))
            if drawn is None:
                low, high = self.training_noise
                drawn = torch.rand(len(z), generator=generator, device=generator_device(z, generator)).to(z)
                drawn = drawn * (high - low) + low
                state.store((self, "time"), drawn)
            noise_level = timestep = drawn
        # Timesteps are scaled to [0, 1000], where half precision has no fractional digits.
        timestep = timestep.to(torch.promote_types(z.dtype, torch.float32)) * self.time_scale
        return noise_level, sinusoidal_embedding(timestep)

    def _draw_injected_noise(
        self, z: Tensor, generator: torch.Generator | None, state: StreamState
    ) -> dict[nn.Module, Tensor]:
        """Return the (H, W) noise of each `NoiseInjection` layer, drawn in the first chunk of a clip."""
        noise: dict[nn.Module, Tensor] = {}
        for layer in self.modules():
            if isinstance(layer, NoiseInjection):
                drawn = state.load(layer)
                if drawn is None:
                    drawn = randn(z, (z.shape[3] * layer.factor, z.shape[4] * layer.factor), generator)
                    state.store(layer, drawn)
                noise[layer] = drawn
        return noise

    def _add_noise(self, z: Tensor, noise_level: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Return (1 - sigma) z + sigma n, where n has the mean and the standard deviation of each latent channel."""
        if noise_level is None or not z.shape[2]:
            return z
        noise = self.statistics.denormalize(randn_per_frame(z, generator))
        return torch.lerp(z, noise, noise_level[:, None, None, None, None])
