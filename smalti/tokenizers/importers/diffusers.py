"""Models as Hugging Face's diffusers stores them; `_class_name` of their config.json tells the class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.kl import KL
from smalti.tokenizers.importers import onevae
from smalti.tokenizers.importers.family import Family
from smalti.tokenizers.importers.ltx import DENOISING, OPTIONAL
from smalti.tokenizers.models.ltx.block_specs import BlockList
from smalti.tokenizers.models.ltx.blocks import PixelNormBlock, ResidualStage
from smalti.tokenizers.models.ltx.decoder import LTXDecoder
from smalti.tokenizers.models.ltx.encoder import LTXEncoder
from smalti.tokenizers.tokenizer import Tokenizer

NAME = "diffusers"

_LTX_FIXED = {
    "in_channels": 3,
    "out_channels": 3,
    "patch_size_t": 1,
    "resnet_norm_eps": 1e-6,
    "encoder_causal": True,
}
"""What the released models agree on, where the configuration says it at all."""

_LTX_AXES = {"conv": "all", "spatiotemporal": "all", "spatial": "space", "temporal": "time"}

_LTX_RENAMES = (
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


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a configuration is of.

    Raises:
        SmaltiError: no class is named, or one that has no importer.
    """
    name = config.get("_class_name")
    if name not in _CLASSES:
        raise SmaltiError(
            f"diffusers' class {name!r} has no importer: those that have are {', '.join(sorted(_CLASSES))}."
        )
    return _CLASSES[name]


def build_ltx(config: Mapping[str, Any]) -> Tokenizer:
    """LTX-Video's tokenizer (arXiv 2501.00103) of AutoencoderKLLTXVideo's configuration, with fresh weights.

    Raises:
        SmaltiError: a key that is missing, or a value that describes no model of the family.
    """
    for name, value in _LTX_FIXED.items():
        if config.get(name, value) != value:
            raise SmaltiError(f"{name} is {config[name]!r}, but LTX-Video's models have {value!r}.")
    try:
        dim, patch = int(config["latent_channels"]), int(config["patch_size"])
        down, first = _ltx_down(config), int(config["block_out_channels"][0])
        up, last = _ltx_up(config)
        timed, causal = bool(config["timestep_conditioning"]), bool(config["decoder_causal"])
    except KeyError as error:
        raise SmaltiError(f"The configuration has no {error}: give the config.json of the model.") from None
    except (TypeError, ValueError, IndexError) as error:
        raise SmaltiError(f"The configuration holds something else than it should ({error}): correct it.") from None
    bottleneck = KL(dim, shared_log_variance=True)
    return Tokenizer(
        LTXEncoder(bottleneck.in_dim, first, down, patch),
        bottleneck,
        LTXDecoder(dim, last, up, patch, causal=causal, **(DENOISING if timed else {})),
    )


def ltx_keys(tokenizer: Tokenizer) -> dict[str, str]:
    """AutoencoderKLLTXVideo's key of each of our weights."""
    assert isinstance(tokenizer.encoder, LTXEncoder)
    assert isinstance(tokenizer.decoder, LTXDecoder)
    places = _ltx_places(tokenizer.encoder) | _ltx_places(tokenizer.decoder)
    return {name: _ltx_key(name, places) for name in tokenizer.state_dict()}


def _ltx_key(name: str, places: Mapping[str, str]) -> str:
    match = re.match(r"((?:encoder|decoder)\.blocks\.\d+)\.(.*)", name)
    if match:
        name = f"{places[match[1]]}.{re.sub(r'^blocks', 'resnets', match[2])}"
    for ours, theirs in _LTX_RENAMES:
        name = re.sub(ours, theirs, name)
    return name


def _ltx_places(network: LTXEncoder | LTXDecoder) -> dict[str, str]:
    """Where diffusers has each of our blocks.

    It nests them: a stage of residual blocks begins an encoder's down block and ends a decoder's up block, together with
    the change of positions and of channels there; the stage next to the latent is the middle.
    """
    down = isinstance(network, LTXEncoder)
    part, nest, change, sampler = (
        ("encoder", "down_blocks", "conv_out", "downsamplers.0")
        if down
        else ("decoder", "up_blocks", "conv_in", "upsamplers.0")
    )
    stages = [isinstance(block, ResidualStage) for block in network.blocks]
    places: dict[str, str] = {}
    for n, block in enumerate(network.blocks):
        outer = f"{part}.{nest}.{sum(stages[: n + 1]) - 1 if down else sum(stages[:n]) - 1}"
        if isinstance(block, ResidualStage):
            middle = not any(stages[n + 1 :] if down else stages[:n])
            places[f"{part}.blocks.{n}"] = f"{part}.mid_block" if middle else outer
        else:
            places[f"{part}.blocks.{n}"] = f"{outer}.{change if isinstance(block, PixelNormBlock) else sampler}"
    return places


def _ltx_down(config: Mapping[str, Any]) -> BlockList:
    """The encoder's blocks, from pixels to positions."""
    widths, layers = list(config["block_out_channels"]), list(config["layers_per_block"])
    kinds, scaled = list(config["down_block_types"]), list(config["spatio_temporal_scaling"])
    axes = [_LTX_AXES[kind] for kind in config["downsample_type"]]
    blocks: BlockList = []
    width = widths[0]
    for i, kind in enumerate(kinds):
        folded = kind == "LTXVideo095DownBlock3D"
        # The older networks have as many widths as blocks, the newer one more.
        wider = widths[min(i + 1, len(widths) - 1)]
        blocks.append(["res_x", {"num_layers": int(layers[i])}])
        if scaled[i] and folded:
            blocks.append([f"compress_{axes[i]}_res", {"multiplier": wider // width}])
        elif scaled[i]:
            blocks.append(["compress_all", {}])
        if not folded and wider != width:
            blocks.append(["res_x_y", {"multiplier": wider // width}])
        width = wider
    return [*blocks, ["res_x", {"num_layers": int(layers[len(kinds)])}]]


def _ltx_up(config: Mapping[str, Any]) -> tuple[BlockList, int]:
    """The decoder's blocks, from pixels to positions, and its last width."""
    widths, layers = list(config["decoder_block_out_channels"]), list(config["decoder_layers_per_block"])
    scaled, noisy = list(config["decoder_spatio_temporal_scaling"]), list(config["decoder_inject_noise"])
    residual, factors = list(config["upsample_residual"]), list(config["upsample_factor"])

    def stage(i: int) -> list[Any]:
        return ["res_x", {"num_layers": int(layers[i]), "inject_noise": bool(noisy[i])}]

    blocks: BlockList = [stage(len(widths))]
    width = int(widths[-1])
    for i in reversed(range(len(widths))):
        factor = int(factors[i])
        narrow = widths[i] // factor
        if factor == 1 and narrow != width:
            options = {"multiplier": width // narrow, "inject_noise": bool(noisy[i])}
            blocks.append(["res_x_y", options])
        if scaled[i]:
            blocks.append(["compress_all", {"multiplier": factor, "residual": bool(residual[i])}])
        blocks.append(stage(i))
        width = narrow
    return blocks[::-1], width


_CLASSES = {
    "AutoencoderKLWan": Family(build=onevae.build_diffusers_wan, keys=onevae.diffusers_wan_keys),
    "AutoencoderKLLTXVideo": Family(build=build_ltx, keys=ltx_keys, optional=OPTIONAL),
}
