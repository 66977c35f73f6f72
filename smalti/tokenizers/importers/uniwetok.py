"""UniWeTok's image tokenizers (arXiv 2602.14178).

Keys of the publisher's configuration: `ddconfig` with `ch`, `ch_mult`, `num_res_blocks`, `z_channels`, `attn_blocks`
(default 2) and `n_heads` (default 16). `resolution` and `gan_decoder` are accepted and not used: the network takes any
size, and its decoder always draws noise. The code of the network is published, but we know of no configuration and no
weights.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.tokenizers.importers.family import PublishedConfig, map_names, substitute
from smalti.tokenizers.importers.published_config import check_constants, config_errors
from smalti.tokenizers.importers.wetok import FAMILY as WETOK
from smalti.tokenizers.importers.wetok import quantizer_without_groups
from smalti.tokenizers.importers.wetok import to_published_key as to_wetok_key
from smalti.tokenizers.models.uniwetok.decoder import UniWeTokDecoder
from smalti.tokenizers.models.uniwetok.encoder import UniWeTokEncoder
from smalti.tokenizers.tokenizer import Tokenizer

_CONSTANTS = {"double_z": False, "in_channels": 3, "out_ch": 3}
_RULES = (
    (r"^(encoder|decoder)\.attention\.registers$", r"\1.register_token.weight"),
    (r"^(encoder|decoder)\.attention\.blocks\.", r"\1.mid_attn_blocks."),
    (r"\.attention\.qkv\.", ".attention.wqkv."),
    (r"\.attention\.out\.", ".attention.wo."),
    (r"\.feed_forward\.gate_and_value\.", ".feed_forward.w1."),
    (r"\.feed_forward\.out\.", ".feed_forward.w2."),
    (r"\.feed_forward_norm\.", ".ffn_norm."),
)


def build(config: PublishedConfig) -> Tokenizer:
    """Build a tokenizer with random weights from UniWeTok's configuration.

    Raises:
        SmaltiError: a key is missing, or values describe no model of the family.
    """
    with config_errors("a UniWeTok configuration has ddconfig, with ch, ch_mult, num_res_blocks and z_channels"):
        network = config["ddconfig"]
        check_constants(network, _CONSTANTS, "UniWeTok's models")
        z = int(network["z_channels"])
        shape = {
            "channels": int(network["ch"]),
            "multipliers": list(network["ch_mult"]),
            "blocks": int(network["num_res_blocks"]),
            "attention_blocks": int(network.get("attn_blocks", 2)),
            "attention_heads": int(network.get("n_heads", 16)),
        }
    return Tokenizer(
        encoder=UniWeTokEncoder(z, **shape),
        bottleneck=quantizer_without_groups(z),
        decoder=UniWeTokDecoder(z, **shape),
    )


def to_published_key(name: str) -> str:
    """Return UniWeTok's key of a weight."""
    return to_wetok_key(substitute(name, _RULES))


FAMILY = replace(
    WETOK,
    name="uniwetok",
    description="UniWeTok's image tokenizers",
    build=build,
    keys=map_names(to_published_key),
    mixed_ema=True,
)
