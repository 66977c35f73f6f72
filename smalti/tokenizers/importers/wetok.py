"""WeTok's released image tokenizers (arXiv 2508.05599), and those of Open-MAGVIT2 and BitDance, which have the same layout.

Keys of the publisher's configuration: `ddconfig` (with `ch`, `ch_mult`, `num_res_blocks`, `z_channels`), `n_embed`
(codewords per group), `embed_dim`, `num_codebooks` (groups; default 1) and `gan_decoder` (default False). Other keys are
used in training only.

BitDance's configurations (arXiv 2602.14041) have no `n_embed`, `embed_dim` and `num_codebooks`: its tokens are vectors of
bits. They are imported with one id per 8 bits, see `quantizer_without_groups`.
"""

from __future__ import annotations

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.gq import GQ
from smalti.tokenizers.importers.family import (
    LIT_EMA_STATE,
    Family,
    PublishedConfig,
    lit_ema_key,
    map_names,
    substitute,
)
from smalti.tokenizers.importers.published_config import config_errors
from smalti.tokenizers.models.wetok.decoder import WeTokDecoder, WeTokGenerativeDecoder
from smalti.tokenizers.models.wetok.encoder import WeTokEncoder
from smalti.tokenizers.tokenizer import Tokenizer

_RULES = (
    (r"^(encoder|decoder)\.middle\.", r"\1.mid_block."),
    (r"^encoder\.levels\.(\d+)\.blocks\.", r"encoder.down.\1.block."),
    (r"^encoder\.levels\.(\d+)\.downsample\.", r"encoder.down.\1.downsample."),
    (r"^decoder\.levels\.(\d+)\.blocks\.", r"decoder.up.\1.block."),
    (r"^decoder\.levels\.(\d+)\.upsample\.conv\.", r"decoder.up.\1.upsample.conv1."),
    (r"^decoder\.levels\.(\d+)\.norm\.", r"decoder.adaptive.\1."),
    (r"\.shortcut\.", ".nin_shortcut."),
)


def build(config: PublishedConfig) -> Tokenizer:
    """Build a tokenizer with random weights from WeTok's configuration.

    Raises:
        SmaltiError: a key is missing, or values contradict each other.
    """
    with config_errors("a WeTok configuration has ddconfig, n_embed and embed_dim, BitDance's has ddconfig"):
        network = config["ddconfig"]
        channels, multipliers, blocks = network["ch"], list(network["ch_mult"]), network["num_res_blocks"]
        z = int(network["z_channels"])
        without_groups = not {"n_embed", "embed_dim", "num_codebooks"} & set(config)
        bottleneck = quantizer_without_groups(z) if without_groups else _quantizer(config, z)
    if network.get("double_z"):
        raise SmaltiError("double_z is true, but WeTok's encoders have one channel per bit: correct the configuration.")
    decoder = WeTokGenerativeDecoder if config.get("gan_decoder") else WeTokDecoder
    return Tokenizer(
        encoder=WeTokEncoder(z, channels, multipliers, blocks),
        bottleneck=bottleneck,
        decoder=decoder(z, channels, multipliers, blocks),
    )


def quantizer_without_groups(z: int) -> GQ:
    """Return the quantizer of a release whose tokens are vectors of bits: one id per 8 bits, which are a byte of the bits.

    Groups have no effect on bits and pixels. In training they define the entropies: BitDance's code has 4 groups for its 32
    channels. For 128 and 256 channels none are published, and 8 bits per group are assumed.

    Args:
        z: latent channels, which are bits.

    Raises:
        SmaltiError: `z` is not a multiple of 8.
    """
    if z < 8 or z % 8:
        raise SmaltiError(f"z_channels is {z}, but tokenizers without groups have a multiple of 8: add the groups.")
    return _published_losses(z // 8, 8)


def _quantizer(config: PublishedConfig, z: int) -> GQ:
    codebook_size, dim = config["n_embed"], config["embed_dim"]
    groups, bits = int(config.get("num_codebooks", 1)), int(codebook_size).bit_length() - 1
    if codebook_size != 2**bits or groups * bits != dim or dim != z:
        raise SmaltiError(
            f"n_embed {codebook_size} must be a power of two, and its bits times num_codebooks {groups} must equal "
            f"embed_dim {dim} and z_channels {z}: correct the configuration."
        )
    return _published_losses(groups, bits)


def _published_losses(groups: int, bits: int) -> GQ:
    """Return a quantizer with the published losses: the entropy of the pooled groups, with log(p + 1e-5)."""
    return GQ(groups, bits, codebook_entropy="pooled", log_offset=1e-5)


def to_published_key(name: str) -> str:
    """Return WeTok's key of a weight."""
    return substitute(name, _RULES)


FAMILY = Family(
    name="wetok",
    description="WeTok's, BitDance's and Open-MAGVIT2's image tokenizers",
    build=build,
    keys=map_names(to_published_key),
    # The discriminator, the perceptual network, and the state of the moving average.
    ignored_prefixes=("loss.", *LIT_EMA_STATE),
    ema_key=lit_ema_key,
)
