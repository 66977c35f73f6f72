"""WeTok's released image tokenizers (arXiv 2508.05599), and Open-MAGVIT2's of the same layout.

The publisher's configuration has `ddconfig` (`ch`, `ch_mult`, `num_res_blocks`, `z_channels`), `n_embed` (codes a
group), `embed_dim`, `num_codebooks` (groups; 1 if absent) and `gan_decoder` (False if absent); other keys are
training's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.gq import GQ
from smalti.tokenizers.models.wetok.decoder import WeTokDecoder, WeTokGenerativeDecoder
from smalti.tokenizers.models.wetok.encoder import WeTokEncoder
from smalti.tokenizers.tokenizer import Tokenizer

DROPPED = ("loss.", "model_ema.decay", "model_ema.num_updates")
"""The discriminator, the perceptual network and the bookkeeping of the average."""

_RENAMES = (
    (r"^(encoder|decoder)\.middle\.", r"\1.mid_block."),
    (r"^encoder\.levels\.(\d+)\.blocks\.", r"encoder.down.\1.block."),
    (r"^encoder\.levels\.(\d+)\.downsample\.", r"encoder.down.\1.downsample."),
    (r"^decoder\.levels\.(\d+)\.blocks\.", r"decoder.up.\1.block."),
    (r"^decoder\.levels\.(\d+)\.upsample\.conv\.", r"decoder.up.\1.upsample.conv1."),
    (r"^decoder\.levels\.(\d+)\.norm\.", r"decoder.adaptive.\1."),
    (r"\.shortcut\.", ".nin_shortcut."),
)


def build(config: Mapping[str, Any]) -> Tokenizer:
    """A tokenizer of the publisher's configuration, with fresh weights.

    Raises:
        SmaltiError: a key that is missing, or numbers that contradict each other.
    """
    try:
        network = config["ddconfig"]
        channels, multipliers, blocks = network["ch"], list(network["ch_mult"]), network["num_res_blocks"]
        z, codes, dim = network["z_channels"], config["n_embed"], config["embed_dim"]
        groups, bits = int(config.get("num_codebooks", 1)), int(codes).bit_length() - 1
    except (TypeError, ValueError) as error:
        raise SmaltiError(f"The configuration holds something else than it should ({error}): correct it.") from None
    except KeyError as error:
        raise SmaltiError(
            f"The configuration has no {error}: a WeTok configuration has ddconfig, n_embed, embed_dim."
        ) from None
    if codes != 2**bits or groups * bits != dim or dim != z:
        raise SmaltiError(
            f"n_embed {codes} must be a power of two whose bits times num_codebooks {groups} are embed_dim {dim} and "
            f"z_channels {z}: correct the configuration."
        )
    if network.get("double_z"):
        raise SmaltiError("double_z is true, but WeTok's encoders have one channel a bit: correct the configuration.")
    decoder = WeTokGenerativeDecoder if config.get("gan_decoder") else WeTokDecoder
    return Tokenizer(
        encoder=WeTokEncoder(z, channels, multipliers, blocks),
        # The published losses: entropy of the pooled groups, with log(p + 1e-5).
        bottleneck=GQ(groups, bits, codebook_entropy="pooled", log_offset=1e-5),
        decoder=decoder(z, channels, multipliers, blocks),
    )


def key(name: str) -> str:
    """The publisher's name of the weight that we call `name`."""
    for ours, theirs in _RENAMES:
        name = re.sub(ours, theirs, name)
    return name


def averaged_key(key: str) -> str:
    """Where the publisher keeps the moving average of `key`."""
    return "model_ema." + key.replace(".", "")
