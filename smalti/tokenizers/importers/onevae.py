"""OneVAE's released video tokenizers (arXiv 2508.09857), and Wan2.1's VAE (arXiv 2503.20314), which has the same layers.

The publisher's configuration of OneVAE has `arch` ("vae888", "vae81616_hybrid", ...; a hybrid has first-frame
strengthening), `params` (`dim`, `z_dim`, `dim_mult`, `num_res_blocks`, `temperal_downsample`, one flag a down-sampling),
`levels` (of FSQ) and `num_codebooks` (tokens a position). Wan2.1's has `params`' keys alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck
from smalti.tokenizers.bottlenecks.fsq import FSQ
from smalti.tokenizers.bottlenecks.joint import Joint
from smalti.tokenizers.bottlenecks.kl import KL
from smalti.tokenizers.bottlenecks.projected import Projected
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder
from smalti.tokenizers.models.onevae.resampling import Upsample
from smalti.tokenizers.tokenizer import Tokenizer

DROPPED = ("codebook_used", "model_ema.decay", "model_ema.num_updates", "loss.")
"""Bookkeeping of training."""

_RENAMES = (
    (r"\.(layers|middle)\.(\d+)\.norm1\.", r".\1.\2.residual.0."),
    (r"\.(layers|middle)\.(\d+)\.conv1\.", r".\1.\2.residual.2."),
    (r"\.(layers|middle)\.(\d+)\.norm2\.", r".\1.\2.residual.3."),
    (r"\.(layers|middle)\.(\d+)\.conv2\.", r".\1.\2.residual.6."),
    (r"\.(\d+)\.space\.", r".\1.resample.1."),
    (r"\.(\d+)\.time\.", r".\1.time_conv."),
    (r"^encoder\.head\.", "conv1."),
    (r"^decoder\.head\.", "conv2."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"^encoder\.layers\.", "encoder.downsamples."),
    (r"^decoder\.layers\.", "decoder.upsamples."),
    (r"^decoder\.first_to_latent\.", "decoder.downsample_highres_first.resample.1."),
    (r"^decoder\.first_to_frame\.", "decoder.upsample_highres.resample."),
)


def build(config: Mapping[str, Any]) -> Tokenizer:
    """A tokenizer of OneVAE's configuration, with both its paths, and fresh weights.

    Raises:
        SmaltiError: a key that is missing, or a value that describes no model of the family.
    """
    try:
        arch, params = str(config["arch"]), config["params"]
        levels, tokens = list(config["levels"]), int(config["num_codebooks"])
        z = int(params["z_dim"])
    except KeyError as error:
        raise SmaltiError(
            f"The configuration has no {error}: a OneVAE configuration has arch, params, levels and num_codebooks."
        ) from None
    except (TypeError, ValueError) as error:
        raise SmaltiError(f"The configuration holds something else than it should ({error}): correct it.") from None
    joint = Joint(KL(z), Projected(FSQ(levels, tokens), dim=z, in_dim=2 * z))
    return _tokenizer(params, joint, first_frame=arch.endswith("hybrid"))


def build_wan(config: Mapping[str, Any]) -> Tokenizer:
    """Wan2.1's continuous tokenizer; the released one has dim 96, z_dim 16, dim_mult [1, 2, 4, 4], num_res_blocks 2.

    Raises:
        SmaltiError: as `build`.
    """
    try:
        z = int(config["z_dim"])
    except KeyError as error:
        raise SmaltiError(f"The configuration has no {error}: a Wan configuration has dim, z_dim, dim_mult.") from None
    return _tokenizer(config, KL(z), first_frame=False)


def _tokenizer(params: Mapping[str, Any], bottleneck: Bottleneck, *, first_frame: bool) -> Tokenizer:
    try:
        shape: dict[str, Any] = {
            "channels": int(params["dim"]),
            "multipliers": list(params["dim_mult"]),
            "strides": [[2 if time else 1, 2] for time in params["temperal_downsample"]],
            "blocks": int(params["num_res_blocks"]),
            "first_frame": first_frame,
        }
        attention = list(params.get("attn_scales", []))
    except KeyError as error:
        raise SmaltiError(f"The configuration of the network has no {error}: give the publisher's.") from None
    except (TypeError, ValueError) as error:
        raise SmaltiError(f"The configuration holds something else than it should ({error}): correct it.") from None
    if attention:
        raise SmaltiError(f"attn_scales is {attention}, but the released networks have attention in the middle alone.")
    z = bottleneck.out_dim
    return Tokenizer(OneVAEEncoder(2 * z, **shape), bottleneck, OneVAEDecoder(z, **shape))


def wan_key(name: str) -> str:
    """Wan2.1's name of the weight that we call `name`."""
    for ours, theirs in _RENAMES:
        name = re.sub(ours, theirs, name)
    return name


def key(name: str) -> str:
    """OneVAE's name of the weight that we call `name`."""
    if name.startswith("bottleneck."):
        return name.replace("bottleneck.discrete.down.", "quant_conv.").replace(
            "bottleneck.discrete.up.", "post_quant_conv."
        )
    return "model." + wan_key(name)


def averaged_key(key: str) -> str:
    """Where the publisher keeps the moving average of `key`."""
    return "model_ema." + key.replace(".", "")


def build_diffusers_wan(config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a configuration of diffusers' AutoencoderKLWan, with fresh weights.

    Raises:
        SmaltiError: as `build`; or a Wan 2.2 autoencoder, which has other blocks.
    """
    if config.get("is_residual") or config.get("patch_size") or config.get("decoder_base_dim"):
        raise SmaltiError(
            "This AutoencoderKLWan is of Wan 2.2 (is_residual, patch_size or decoder_base_dim is set), which smalti does "
            "not know: give a Wan 2.1 autoencoder."
        )
    return build_wan({**config, "dim": config.get("base_dim", 96), "z_dim": config.get("z_dim", 16)})


def diffusers_wan_keys(tokenizer: Tokenizer) -> dict[str, str]:
    """AutoencoderKLWan's key of each of our weights."""
    assert isinstance(tokenizer.decoder, OneVAEDecoder)
    level = next(i for i, layer in enumerate(tokenizer.decoder.layers) if isinstance(layer, Upsample))
    return {name: _diffusers_wan_key(name, level) for name in tokenizer.state_dict()}


def _diffusers_wan_key(name: str, level: int) -> str:
    """Diffusers' name of the weight that we call `name`, with `level` residual blocks a level of the decoder."""
    name = re.sub(r"^encoder\.head\.", "quant_conv.", name)
    name = re.sub(r"^decoder\.head\.", "post_quant_conv.", name)
    name = re.sub(r"\.(\d+)\.space\.", r".\1.resample.1.", name)
    name = re.sub(r"\.(\d+)\.time\.", r".\1.time_conv.", name)
    name = name.replace(".shortcut.", ".conv_shortcut.").replace("encoder.layers.", "encoder.down_blocks.")
    name = re.sub(r"\.middle\.([02])\.", lambda m: f".mid_block.resnets.{int(m[1]) // 2}.", name)
    name = name.replace(".middle.1.", ".mid_block.attentions.0.")

    def up(match: re.Match[str]) -> str:
        block, place = divmod(int(match[1]), level + 1)
        return f"decoder.up_blocks.{block}." + (f"resnets.{place}." if place < level else "upsamplers.0.")

    return re.sub(r"^decoder\.layers\.(\d+)\.", up, name)
