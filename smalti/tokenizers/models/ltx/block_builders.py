"""Building the layers that a block specification describes."""

from __future__ import annotations

import math

from torch import nn

from smalti.errors import SmaltiError
from smalti.tokenizers.models.ltx.block_specs import BlockSpec
from smalti.tokenizers.models.ltx.blocks import PixelNormBlock, ResidualStage
from smalti.tokenizers.models.ltx.replication_pad_conv import Padding
from smalti.tokenizers.models.ltx.resampling import DepthToSpaceUpsample, SpaceToDepthDownsample, StridedDownsample


def build_encoder_block(block: BlockSpec, channels: int, padding: Padding) -> nn.Module:
    """Build a block of an encoder, which multiplies the channels by `block.multiplier`.

    Args:
        block: the specification.
        channels: input channels.
        padding: see `ReplicationPadConv3d`.

    Raises:
        SmaltiError: the channels are not divisible as the block requires.
    """
    if block.name == "res_x":
        return ResidualStage(channels, block.num_layers, causal=True, padding=padding)
    out_channels = channels * block.multiplier
    if block.name == "res_x_y":
        return PixelNormBlock(channels, out_channels, causal=True, padding=padding)
    if not block.name.endswith("_res"):
        return StridedDownsample(channels, block.stride, padding=padding)
    positions = math.prod(block.stride)
    _check_divisible(out_channels, positions, block)
    _check_divisible(channels * positions, out_channels, block)
    return SpaceToDepthDownsample(channels, out_channels, block.stride, padding=padding)


def build_decoder_block(
    block: BlockSpec, channels: int, factor: int, *, timestep_conditioning: bool, causal: bool, padding: Padding
) -> nn.Module:
    """Build a block of a decoder, which divides the channels by `block.multiplier`.

    Args:
        block: the specification.
        channels: input channels, a multiple of `block.multiplier`.
        factor: height and width of the input relative to the latent.
        timestep_conditioning: whether residual stages are conditioned on the timestep.
        causal: see `ReplicationPadConv3d`.
        padding: see `ReplicationPadConv3d`.

    Raises:
        SmaltiError: the channels are not divisible as the block requires.
    """
    noise_factor = factor if block.inject_noise else None
    if block.name == "res_x":
        return ResidualStage(
            channels,
            block.num_layers,
            causal=causal,
            padding=padding,
            timestep_conditioning=timestep_conditioning,
            noise_factor=noise_factor,
        )
    if block.name == "res_x_y":
        out_channels = channels // block.multiplier
        return PixelNormBlock(channels, out_channels, causal=causal, padding=padding, noise_factor=noise_factor)
    if block.residual:
        _check_divisible(channels, math.prod(block.stride), block)
        _check_divisible(math.prod(block.stride), block.multiplier, block)
    return DepthToSpaceUpsample(
        channels, block.stride, multiplier=block.multiplier, residual=block.residual, causal=causal, padding=padding
    )


def _check_divisible(number: int, divisor: int, block: BlockSpec) -> None:
    if number % divisor:
        raise SmaltiError(
            f"The block {block.name} needs {number} to be divisible by {divisor}: change channels, or the block's "
            "multiplier."
        )
