"""Wan2.1's released video VAE (arXiv 2503.20314), which has the same layers as OneVAE.

Keys of the publisher's configuration: `dim`, `z_dim`, `dim_mult`, `num_res_blocks`, `temperal_downsample` (one flag per
downsampling layer) and `attn_scales` (empty). The released model has dim 96, z_dim 16, dim_mult [1, 2, 4, 4],
num_res_blocks 2 and temperal_downsample [False, True, True].
"""

from __future__ import annotations

from typing import Any

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck
from smalti.tokenizers.bottlenecks.kl import KL
from smalti.tokenizers.importers.family import Family, PublishedConfig, map_names, substitute
from smalti.tokenizers.importers.published_config import config_errors
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder
from smalti.tokenizers.tokenizer import Tokenizer

_RULES = (
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
)


def build(config: PublishedConfig) -> Tokenizer:
    """Build Wan2.1's continuous tokenizer with random weights.

    Raises:
        SmaltiError: a key is missing, or a value describes no model of the family.
    """
    with config_errors("a Wan configuration has dim, z_dim and dim_mult"):
        z = int(config["z_dim"])
    return build_tokenizer(config, KL(z), first_frame=False)


def build_tokenizer(params: PublishedConfig, bottleneck: Bottleneck, *, first_frame: bool) -> Tokenizer:
    """Build a tokenizer with the networks that Wan2.1 and OneVAE describe by the same keys.

    Args:
        params: the configuration of the networks.
        bottleneck: the bottleneck.
        first_frame: see `OneVAEEncoder`.

    Raises:
        SmaltiError: as `build`.
    """
    with config_errors("use the publisher's configuration"):
        shape: dict[str, Any] = {
            "channels": int(params["dim"]),
            "multipliers": list(params["dim_mult"]),
            "strides": [[2 if time else 1, 2] for time in params["temperal_downsample"]],
            "blocks": int(params["num_res_blocks"]),
            "first_frame": first_frame,
        }
        attention = list(params.get("attn_scales", []))
    if attention:
        raise SmaltiError(f"attn_scales is {attention}, but the released networks have attention only in the middle.")
    z = bottleneck.out_dim
    return Tokenizer(OneVAEEncoder(2 * z, **shape), bottleneck, OneVAEDecoder(z, **shape))


def to_published_key(name: str) -> str:
    """Return Wan2.1's key of a weight."""
    return substitute(name, _RULES)


FAMILY = Family(
    name="wan",
    description="Wan2.1's video VAE",
    build=build,
    keys=map_names(to_published_key),
)
