"""Continuous tokenizers as Hugging Face's diffusers stores them: the reverse of `smalti.tokenizers.importers.diffusers`.

A folder holds `config.json` (the class and its arguments) and `diffusion_pytorch_model.safetensors`; the class's
`from_pretrained` loads it. Writing needs no diffusers. What is written is built again by the importer first and compared,
so that a network that the class does not have is refused instead of being written as another.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.files import atomic_write_folder, check_overwrite
from smalti.tokenizers.bottlenecks.kl import KL
from smalti.tokenizers.configurable import Configurable, get_config
from smalti.tokenizers.importers.diffusers import family_of
from smalti.tokenizers.models.ltx.block_specs import DECODER_OPTIONS, ENCODER_OPTIONS, BlockSpec, parse_blocks
from smalti.tokenizers.models.ltx.decoder import LTXDecoder
from smalti.tokenizers.models.ltx.encoder import LTXEncoder
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.version import __version__

WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"

_NAMES_OF_AXES = {
    "compress_all_res": "spatiotemporal",
    "compress_space_res": "spatial",
    "compress_time_res": "temporal",
}

_AT_CALL = ("timestep", "noise", "training_noise")
"""Arguments of a decoder that are none of the class's: its caller names the time, and mixes the noise in."""

Config = dict[str, Any]


@dataclass(frozen=True)
class DiffusersModel:
    """A tokenizer as a class of diffusers has it.

    Attributes:
        config: of `config.json`: the class's arguments and, as `_class_name`, its name.
        weights: by the class's keys.
    """

    config: Config
    weights: dict[str, Tensor]


def to_diffusers(tokenizer: Tokenizer) -> DiffusersModel:
    """A tokenizer's configuration and weights as diffusers' class of the same network has them.

    LTX-Video's networks with a KL of one shared log-variance become an AutoencoderKLLTXVideo, with the latent's statistics;
    of a decoder that denoises, the time and the strength of the noise are left to the caller, as everywhere in diffusers.
    OneVAE's networks with a KL become an AutoencoderKLWan, whose configuration has a latent's statistics too: 0 and 1,
    because these tokenizers have none.

    Raises:
        SmaltiError: a tokenizer that no class of diffusers is known for, or whose network the class does not have.
    """
    config = _config_of(tokenizer)
    family = family_of(config)
    with torch.device("meta"):
        again = family.build(config)
    if _described(again) != _described(tokenizer):
        raise _refusal(f"its lists of blocks are none that {config['_class_name']} can be told")
    keys = family.keys(tokenizer)
    return DiffusersModel(config, {keys[name]: weight for name, weight in tokenizer.state_dict().items()})


def save_diffusers(
    tokenizer: Tokenizer, folder: str | Path, *, provenance: dict[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """Write a tokenizer to a folder that diffusers' `from_pretrained` loads, each file whole, the configuration last.

    Args:
        tokenizer: see `to_diffusers`; its weights keep their dtype.
        folder: where to; made where it is missing.
        provenance: what should be remembered of its making (JSON can hold it); goes into the weights' metadata.
        overwrite: replace a model of diffusers that is there.

    Returns:
        The folder.

    Raises:
        SmaltiError: as `to_diffusers`; or the folder holds something already, or cannot be written.
    """
    folder = Path(folder)
    check_overwrite(folder, "model of diffusers", WEIGHTS, overwrite=overwrite)
    model = to_diffusers(tokenizer)
    # Shared storage (tied weights) cannot be written as it is; a copy each can.
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.weights.items()}
    metadata = {"format": "pt", "smalti": __version__, "provenance": json.dumps(provenance or {})}
    with atomic_write_folder(folder, (WEIGHTS, CONFIG)) as staged:
        save_file(weights, staged / WEIGHTS, metadata)
        (staged / CONFIG).write_text(json.dumps(model.config, indent=2) + "\n", encoding="utf-8")
        # Were the old configuration to stand beside new weights, it could describe another network of the same shapes.
        (folder / CONFIG).unlink(missing_ok=True)
    return folder


def _config_of(tokenizer: Tokenizer) -> Config:
    """The configuration of the class for these parts."""
    encoder, bottleneck, decoder = tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder
    if isinstance(bottleneck, KL):
        if isinstance(encoder, LTXEncoder) and isinstance(decoder, LTXDecoder):
            return _ltx(encoder, bottleneck, decoder)
        if isinstance(encoder, OneVAEEncoder) and isinstance(decoder, OneVAEDecoder):
            return _wan(encoder, bottleneck)
    kinds = ", ".join(type(part).__name__ for part in (encoder, bottleneck, decoder))
    raise _refusal(f"this tokenizer has {kinds}")


def _refusal(why: str) -> SmaltiError:
    return SmaltiError(
        "diffusers has no class for this tokenizer: LTX-Video's networks with a KL of one shared log-variance can be "
        f"written, and OneVAE's with a KL and without a grid of the first frame's own, but {why}."
    )


def _wan(encoder: OneVAEEncoder, bottleneck: KL) -> Config:
    """The arguments of AutoencoderKLWan."""
    given = get_config(encoder)["init_args"]
    return {
        "_class_name": "AutoencoderKLWan",
        "base_dim": given["channels"],
        "z_dim": bottleneck.dim,
        "dim_mult": given["multipliers"],
        "num_res_blocks": given["blocks"],
        "attn_scales": [],
        "temperal_downsample": [time == 2 for time, _ in given["strides"]],
        "latents_mean": [0.0] * bottleneck.dim,
        "latents_std": [1.0] * bottleneck.dim,
        "scale_factor_temporal": encoder.stride[0],
        "scale_factor_spatial": encoder.stride[1],
    }


def _ltx(encoder: LTXEncoder, bottleneck: KL, decoder: LTXDecoder) -> Config:
    """The arguments of AutoencoderKLLTXVideo."""
    down, up = (get_config(part)["init_args"] for part in (encoder, decoder))
    return {
        "_class_name": "AutoencoderKLLTXVideo",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": bottleneck.dim,
        **_ltx_down(down["channels"], parse_blocks(down["blocks"], ENCODER_OPTIONS)),
        **_ltx_up(up["channels"], parse_blocks(up["blocks"], DECODER_OPTIONS), timed=decoder.timestep is not None),
        "patch_size": encoder.patch,
        "patch_size_t": 1,
        "resnet_norm_eps": 1e-6,
        "scaling_factor": 1.0,
        "encoder_causal": True,
        "decoder_causal": up["causal"],
        "spatial_compression_ratio": encoder.stride[1],
        "temporal_compression_ratio": encoder.stride[0],
    }


def _ltx_down(channels: int, blocks: list[BlockSpec]) -> Config:
    """The encoder's arguments: a down block is a stage of residual blocks and what follows it; the last is the middle."""
    stages, changes = _stages(blocks)
    # The newer down block folds and widens in one, and has a width more to say.
    folded = bool(changes[0]) and changes[0][0].name in _NAMES_OF_AXES
    widths, axes = [channels], []
    for change in changes:
        widths.append(widths[-1] * _product(change))
        axes.append(_NAMES_OF_AXES.get(change[0].name, "conv") if folded and change else "conv")
    return {
        "block_out_channels": widths if folded else widths[:-1],
        "down_block_types": ["LTXVideo095DownBlock3D" if folded else "LTXVideoDownBlock3D"] * len(changes),
        "downsample_type": axes,
        "layers_per_block": [stage.num_layers for stage in stages],
        "spatio_temporal_scaling": [any(block.name.startswith("compress") for block in change) for change in changes],
    }


def _ltx_up(channels: int, blocks: list[BlockSpec], *, timed: bool) -> Config:
    """The decoder's arguments, by pixels first: an up block is a stage and what changes; the last is the middle."""
    stages, changes = _stages(blocks)
    if timed and any(block.name == "res_x_y" for block in blocks):
        raise _refusal("its res_x_y is not told the time, as the class's would be")
    widths, factors, residual = [], [], []
    width = channels
    for change in changes:
        factor = _product([block for block in change if block.name == "compress_all"])
        factors.append(factor)
        widths.append(width * factor)
        residual.append(any(block.residual for block in change))
        width *= _product(change)
    return {
        "decoder_block_out_channels": widths,
        "decoder_layers_per_block": [stage.num_layers for stage in stages],
        "decoder_spatio_temporal_scaling": [any(block.name == "compress_all" for block in c) for c in changes],
        "decoder_inject_noise": [stage.inject_noise for stage in stages],
        "upsample_residual": residual,
        "upsample_factor": factors,
        "timestep_conditioning": timed,
    }


def _stages(blocks: list[BlockSpec]) -> tuple[list[BlockSpec], list[list[BlockSpec]]]:
    """The stages of residual blocks, and what stands between each and the next, from pixels to positions."""
    places = [n for n, block in enumerate(blocks) if block.name == "res_x"]
    if len(places) < 2 or places[0] != 0 or places[-1] != len(blocks) - 1:
        raise _refusal("its lists of blocks do not begin and end with a res_x each")
    between = [blocks[a + 1 : b] for a, b in pairwise(places)]
    return [blocks[n] for n in places], between


def _product(blocks: list[BlockSpec]) -> int:
    return math.prod(block.multiplier for block in blocks)


def _described(tokenizer: Tokenizer) -> list[Config]:
    """The parts' arguments as far as the class has them, with lists of blocks read."""
    return [_arguments(part) for part in (tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder)]


def _arguments(part: Configurable) -> Config:
    arguments = get_config(part)["init_args"]
    if isinstance(part, LTXEncoder | LTXDecoder):
        options = ENCODER_OPTIONS if isinstance(part, LTXEncoder) else DECODER_OPTIONS
        timed = arguments.get("timestep") is not None
        kept = {name: value for name, value in arguments.items() if name not in _AT_CALL}
        return kept | {"blocks": parse_blocks(arguments["blocks"], options), "timed": timed}
    return arguments
