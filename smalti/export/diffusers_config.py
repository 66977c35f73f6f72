"""The arguments of diffusers' AutoencoderKLLTXVideo and AutoencoderKLWan that describe a tokenizer."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.kl import KL
from smalti.tokenizers.configurable import Configurable, get_config
from smalti.tokenizers.importers.diffusers_folder import build_bottleneck
from smalti.tokenizers.latent_statistics import LatentStatistics
from smalti.tokenizers.models.diffusers import DiffusersDecoder, DiffusersEncoder
from smalti.tokenizers.models.ltx.block_specs import DECODER_OPTIONS, ENCODER_OPTIONS, BlockSpec, parse_blocks
from smalti.tokenizers.models.ltx.decoder import LTXDecoder
from smalti.tokenizers.models.ltx.encoder import LTXEncoder
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder
from smalti.tokenizers.tokenizer import Tokenizer

Arguments = dict[str, Any]

_DOWNSAMPLE_TYPES = {
    "compress_all_res": "spatiotemporal",
    "compress_space_res": "spatial",
    "compress_time_res": "temporal",
}
"""The `downsample_type` of each residual downsampling block."""

_CALL_ARGUMENTS = ("timestep", "noise", "training_noise")
"""Arguments of a decoder that the class does not have: its caller passes the timestep and adds the noise."""


def diffusers_config(tokenizer: Tokenizer) -> Arguments:
    """Return the `config.json` of the class of diffusers for the type of a tokenizer.

    If the class cannot represent the network of the tokenizer, it describes a different network. Compare what the importer
    builds from it.

    Raises:
        SmaltiError: diffusers has no class for the encoder, the bottleneck and the decoder.
    """
    encoder, bottleneck, decoder = tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder
    if isinstance(bottleneck, KL):
        if isinstance(encoder, LTXEncoder) and isinstance(decoder, LTXDecoder):
            return _ltx_config(encoder, bottleneck, decoder)
        if isinstance(encoder, OneVAEEncoder) and isinstance(decoder, OneVAEDecoder):
            return _wan_config(tokenizer, encoder, bottleneck)
    classes = ", ".join(type(module).__name__ for module in (encoder, bottleneck, decoder))
    raise unsupported(f"this tokenizer has {classes}")


def published_config(tokenizer: Tokenizer) -> Arguments:
    """Return the `config.json` with which an autoencoder was loaded from diffusers.

    Raises:
        SmaltiError: another bottleneck, encoder or decoder has replaced that of the class.
    """
    encoder, bottleneck, decoder = tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder
    if not (isinstance(encoder, DiffusersEncoder) and isinstance(decoder, DiffusersDecoder)):
        raise unsupported(f"this tokenizer combines {type(encoder).__name__} and {type(decoder).__name__}")
    if encoder.config != decoder.config:
        raise unsupported("its encoder and its decoder come from different models")
    expected = get_config(build_bottleneck(encoder.config))
    if get_config(bottleneck) != expected:
        raise SmaltiError(
            f"{encoder.config['_class_name']} of diffusers cannot contain the bottleneck {type(bottleneck).__name__}: "
            "export the tokenizer with --format smalti, and load it with smalti.load."
        )
    return encoder.config


def represented_arguments(tokenizer: Tokenizer) -> list[Arguments]:
    """Return the arguments of encoder, bottleneck and decoder that a class of diffusers represents, in comparable form."""
    return [_comparable_arguments(module) for module in (tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder)]


def unsupported(reason: str) -> SmaltiError:
    """Return the error for a tokenizer that diffusers cannot represent.

    Args:
        reason: why, as the end of a sentence.
    """
    return SmaltiError(
        "diffusers has no class for this tokenizer: LTX-Video's networks with a KL with a shared log-variance can be "
        f"exported, and OneVAE's networks with a KL and without a separate grid for the first frame, but {reason}."
    )


def _comparable_arguments(module: Configurable) -> Arguments:
    arguments = get_config(module)["init_args"]
    if isinstance(module, KL):
        return arguments | {"statistics": False}  # the class has them in its configuration, or in the decoder
    if not isinstance(module, LTXEncoder | LTXDecoder):
        return arguments
    options = ENCODER_OPTIONS if isinstance(module, LTXEncoder) else DECODER_OPTIONS
    conditioned = arguments.get("timestep") is not None
    kept = {name: value for name, value in arguments.items() if name not in _CALL_ARGUMENTS}
    return kept | {"blocks": parse_blocks(arguments["blocks"], options), "timestep_conditioning": conditioned}


def _wan_config(tokenizer: Tokenizer, encoder: OneVAEEncoder, bottleneck: KL) -> Arguments:
    arguments = get_config(encoder)["init_args"]
    statistics = tokenizer.latent_statistics or LatentStatistics(bottleneck.dim)
    return {
        "_class_name": "AutoencoderKLWan",
        "base_dim": arguments["channels"],
        "z_dim": bottleneck.dim,
        "dim_mult": arguments["multipliers"],
        "num_res_blocks": arguments["blocks"],
        "attn_scales": [],
        "temperal_downsample": [time == 2 for time, _ in arguments["strides"]],
        "latents_mean": statistics.mean.tolist(),
        "latents_std": statistics.std.tolist(),
        "scale_factor_temporal": encoder.stride[0],
        "scale_factor_spatial": encoder.stride[1],
    }


def _ltx_config(encoder: LTXEncoder, bottleneck: KL, decoder: LTXDecoder) -> Arguments:
    down, up = (get_config(network)["init_args"] for network in (encoder, decoder))
    conditioned = decoder.timestep is not None
    return {
        "_class_name": "AutoencoderKLLTXVideo",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": bottleneck.dim,
        **_ltx_encoder_config(down["channels"], parse_blocks(down["blocks"], ENCODER_OPTIONS)),
        **_ltx_decoder_config(up["channels"], parse_blocks(up["blocks"], DECODER_OPTIONS), conditioned=conditioned),
        "patch_size": encoder.patch,
        "patch_size_t": 1,
        "resnet_norm_eps": 1e-6,
        "scaling_factor": 1.0,
        "encoder_causal": True,
        "decoder_causal": up["causal"],
        "spatial_compression_ratio": encoder.stride[1],
        "temporal_compression_ratio": encoder.stride[0],
    }


def _ltx_encoder_config(channels: int, blocks: list[BlockSpec]) -> Arguments:
    """Return the arguments of the encoder.

    A down block is a stage and the blocks after it. The last stage is the middle block.
    """
    stages, between = _split_stages(blocks)
    # The newer class of down block downsamples and changes the channels in one layer. It needs one more width than blocks.
    is_residual = bool(between[0]) and between[0][0].name in _DOWNSAMPLE_TYPES
    widths, downsample_types = [channels], []
    for group in between:
        widths.append(widths[-1] * _multiplier(group))
        downsample_types.append(_DOWNSAMPLE_TYPES.get(group[0].name, "conv") if is_residual and group else "conv")
    block_type = "LTXVideo095DownBlock3D" if is_residual else "LTXVideoDownBlock3D"
    return {
        "block_out_channels": widths if is_residual else widths[:-1],
        "down_block_types": [block_type] * len(between),
        "downsample_type": downsample_types,
        "layers_per_block": [stage.num_layers for stage in stages],
        "spatio_temporal_scaling": [any(block.name.startswith("compress") for block in group) for group in between],
    }


def _ltx_decoder_config(channels: int, blocks: list[BlockSpec], *, conditioned: bool) -> Arguments:
    """Return the arguments of the decoder, from pixels to latents: an up block is a stage and the blocks after it.

    Args:
        channels: channels at the pixels.
        blocks: the blocks from pixels to latents, the reverse of the order in which they run.
        conditioned: whether the decoder is conditioned on the timestep.

    Raises:
        SmaltiError: the class cannot represent the blocks.
    """
    stages, between = _split_stages(blocks)
    if conditioned and any(block.name == "res_x_y" for block in blocks):
        raise unsupported("its res_x_y is not conditioned on the timestep, as that of the class is")
    widths, factors, residual = [], [], []
    width = channels
    for group in between:
        factor = _multiplier([block for block in group if block.name == "compress_all"])
        factors.append(factor)
        widths.append(width * factor)
        residual.append(any(block.residual for block in group))
        width *= _multiplier(group)
    return {
        "decoder_block_out_channels": widths,
        "decoder_layers_per_block": [stage.num_layers for stage in stages],
        "decoder_spatio_temporal_scaling": [any(block.name == "compress_all" for block in group) for group in between],
        "decoder_inject_noise": [stage.inject_noise for stage in stages],
        "upsample_residual": residual,
        "upsample_factor": factors,
        "timestep_conditioning": conditioned,
    }


def _split_stages(blocks: list[BlockSpec]) -> tuple[list[BlockSpec], list[list[BlockSpec]]]:
    """Split blocks, from pixels to latents, into stages of residual blocks and the blocks between consecutive stages."""
    indices = [n for n, block in enumerate(blocks) if block.name == "res_x"]
    if len(indices) < 2 or indices[0] != 0 or indices[-1] != len(blocks) - 1:
        raise unsupported("its lists of blocks do not start and end with a res_x each")
    between = [blocks[start + 1 : end] for start, end in pairwise(indices)]
    return [blocks[n] for n in indices], between


def _multiplier(blocks: list[BlockSpec]) -> int:
    return math.prod(block.multiplier for block in blocks)
