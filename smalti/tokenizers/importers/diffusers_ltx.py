"""The configuration and the keys of diffusers' AutoencoderKLLTXVideo."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from smalti.tokenizers.bottlenecks.kl import KL
from smalti.tokenizers.importers.family import PublishedConfig, substitute
from smalti.tokenizers.importers.published_config import check_constants, config_errors
from smalti.tokenizers.models.ltx.block_specs import BlockList
from smalti.tokenizers.models.ltx.blocks import PixelNormBlock, ResidualStage
from smalti.tokenizers.models.ltx.builder import DENOISING_OPTIONS
from smalti.tokenizers.models.ltx.decoder import LTXDecoder
from smalti.tokenizers.models.ltx.encoder import LTXEncoder
from smalti.tokenizers.tokenizer import Tokenizer

_CONSTANTS = {
    "in_channels": 3,
    "out_channels": 3,
    "patch_size_t": 1,
    "resnet_norm_eps": 1e-6,
    "encoder_causal": True,
}

_AXES = {"conv": "all", "spatiotemporal": "all", "spatial": "space", "temporal": "time"}
"""The axes of each `downsample_type`, as the names of blocks have them."""

_RULES = (
    (r"^decoder\.statistics\.", "latents_"),
    (r"^decoder\.table$", "decoder.scale_shift_table"),
    (r"^decoder\.time_scale$", "decoder.timestep_scale_multiplier"),
    (r"\.time\.linear(\d)\.", r".time_embedder.timestep_embedder.linear_\1."),
    (r"\.table$", ".scale_shift_table"),
    (r"\.noise(\d)\.scale$", r".per_channel_scale\1"),
    (r"\.strided\.", "."),
    (r"\.shortcut_norm\.", ".norm3."),
    (r"\.shortcut\.", ".conv_shortcut.conv."),
)


def build(config: PublishedConfig) -> Tokenizer:
    """Build an LTX-Video tokenizer (arXiv 2501.00103) with random weights from an AutoencoderKLLTXVideo's configuration.

    Raises:
        SmaltiError: a key is missing, or a value describes no model of the family.
    """
    check_constants(config, _CONSTANTS, "LTX-Video's models")
    with config_errors("use the config.json of the model"):
        dim, patch = int(config["latent_channels"]), int(config["patch_size"])
        encoder_blocks, encoder_channels = _encoder_blocks(config), int(config["block_out_channels"][0])
        decoder_blocks, decoder_channels = _decoder_blocks(config)
        timestep_conditioning, causal = bool(config["timestep_conditioning"]), bool(config["decoder_causal"])
    bottleneck = KL(dim, shared_log_variance=True)
    denoising = DENOISING_OPTIONS if timestep_conditioning else {}
    return Tokenizer(
        LTXEncoder(bottleneck.in_dim, encoder_channels, encoder_blocks, patch),
        bottleneck,
        LTXDecoder(dim, decoder_channels, decoder_blocks, patch, causal=causal, **denoising),
    )


def keys(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the key in AutoencoderKLLTXVideo of each weight, by name."""
    assert isinstance(tokenizer.encoder, LTXEncoder)
    assert isinstance(tokenizer.decoder, LTXDecoder)
    prefixes = _block_prefixes(tokenizer.encoder) | _block_prefixes(tokenizer.decoder)
    return {name: _to_key(name, prefixes) for name in tokenizer.state_dict()}


def _to_key(name: str, prefixes: Mapping[str, str]) -> str:
    match = re.match(r"((?:encoder|decoder)\.blocks\.\d+)\.(.*)", name)
    if match:
        name = f"{prefixes[match[1]]}.{re.sub(r'^blocks', 'resnets', match[2])}"
    return substitute(name, _RULES)


def _block_prefixes(network: LTXEncoder | LTXDecoder) -> dict[str, str]:
    """Return the prefix of the keys of each block in diffusers, by its prefix in Smalti.

    Smalti has a flat list of blocks and diffusers nests them. A down block of the encoder starts with a stage of residual
    blocks, and an up block of the decoder ends with one. The layers that change the resolution and the channels next to it
    belong to the same block. The stage next to the latents is the middle block.
    """
    is_encoder = isinstance(network, LTXEncoder)
    part, outer, channel_layer, resolution_layer = (
        ("encoder", "down_blocks", "conv_out", "downsamplers.0")
        if is_encoder
        else ("decoder", "up_blocks", "conv_in", "upsamplers.0")
    )
    is_stage = [isinstance(block, ResidualStage) for block in network.blocks]
    prefixes: dict[str, str] = {}
    for n, block in enumerate(network.blocks):
        index = sum(is_stage[: n + 1] if is_encoder else is_stage[:n]) - 1
        nested = f"{part}.{outer}.{index}"
        if isinstance(block, ResidualStage):
            is_middle = not any(is_stage[n + 1 :] if is_encoder else is_stage[:n])
            prefixes[f"{part}.blocks.{n}"] = f"{part}.mid_block" if is_middle else nested
        else:
            layer = channel_layer if isinstance(block, PixelNormBlock) else resolution_layer
            prefixes[f"{part}.blocks.{n}"] = f"{nested}.{layer}"
    return prefixes


def _encoder_blocks(config: PublishedConfig) -> BlockList:
    """Return the blocks of the encoder, from pixels to latents."""
    widths, layers = list(config["block_out_channels"]), list(config["layers_per_block"])
    types, downsamples = list(config["down_block_types"]), list(config["spatio_temporal_scaling"])
    axes = [_AXES[kind] for kind in config["downsample_type"]]
    blocks: BlockList = []
    width = widths[0]
    for i, block_type in enumerate(types):
        # Newer networks downsample and change the channels in one layer, and have one more width than blocks.
        is_residual = block_type == "LTXVideo095DownBlock3D"
        next_width = widths[min(i + 1, len(widths) - 1)]
        blocks.append(["res_x", {"num_layers": int(layers[i])}])
        if downsamples[i] and is_residual:
            blocks.append([f"compress_{axes[i]}_res", {"multiplier": next_width // width}])
        elif downsamples[i]:
            blocks.append(["compress_all", {}])
        if not is_residual and next_width != width:
            blocks.append(["res_x_y", {"multiplier": next_width // width}])
        width = next_width
    return [*blocks, ["res_x", {"num_layers": int(layers[len(types)])}]]


def _decoder_blocks(config: PublishedConfig) -> tuple[BlockList, int]:
    """Return the blocks of the decoder, from pixels to latents, and the channels at the pixels."""
    widths, layers = list(config["decoder_block_out_channels"]), list(config["decoder_layers_per_block"])
    upsamples, noise = list(config["decoder_spatio_temporal_scaling"]), list(config["decoder_inject_noise"])
    residual, factors = list(config["upsample_residual"]), list(config["upsample_factor"])

    def stage(i: int) -> list[Any]:
        return ["res_x", {"num_layers": int(layers[i]), "inject_noise": bool(noise[i])}]

    blocks: BlockList = [stage(len(widths))]
    width = int(widths[-1])
    for i in reversed(range(len(widths))):
        factor = int(factors[i])
        next_width = widths[i] // factor
        if factor == 1 and next_width != width:
            blocks.append(["res_x_y", {"multiplier": width // next_width, "inject_noise": bool(noise[i])}])
        if upsamples[i]:
            blocks.append(["compress_all", {"multiplier": factor, "residual": bool(residual[i])}])
        blocks.append(stage(i))
        width = next_width
    return blocks[::-1], width
