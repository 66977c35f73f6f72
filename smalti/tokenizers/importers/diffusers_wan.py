"""The configuration and the keys of diffusers' AutoencoderKLWan."""

from __future__ import annotations

import re

from smalti.errors import SmaltiError
from smalti.tokenizers.importers import wan
from smalti.tokenizers.importers.family import PublishedConfig, substitute
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.resampling import Upsample
from smalti.tokenizers.tokenizer import Tokenizer

_RULES = (
    (r"^encoder\.head\.", "quant_conv."),
    (r"^decoder\.head\.", "post_quant_conv."),
    (r"\.(\d+)\.space\.", r".\1.resample.1."),
    (r"\.(\d+)\.time\.", r".\1.time_conv."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"^encoder\.layers\.", "encoder.down_blocks."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
)


def build(config: PublishedConfig) -> Tokenizer:
    """Build a tokenizer with random weights from the configuration of an AutoencoderKLWan.

    Raises:
        SmaltiError: a key is missing, or the configuration is that of a Wan 2.2 autoencoder, which has other blocks.
    """
    if config.get("is_residual") or config.get("patch_size") or config.get("decoder_base_dim"):
        raise SmaltiError(
            "This AutoencoderKLWan is a Wan 2.2 autoencoder (is_residual, patch_size or decoder_base_dim is set), which "
            "smalti does not support: use a Wan 2.1 autoencoder."
        )
    return wan.build({**config, "dim": config.get("base_dim", 96), "z_dim": config.get("z_dim", 16)})


def keys(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the key in AutoencoderKLWan of each weight, by name."""
    assert isinstance(tokenizer.decoder, OneVAEDecoder)
    blocks = next(i for i, layer in enumerate(tokenizer.decoder.layers) if isinstance(layer, Upsample))
    return {name: _to_key(name, blocks) for name in tokenizer.state_dict()}


def _to_key(name: str, blocks: int) -> str:
    """Return the key of a weight.

    Args:
        name: name of the weight in Smalti.
        blocks: residual blocks per level of the decoder. The decoder's list of layers is flat: the residual blocks of a
            level, then its upsampling layer. diffusers nests them.
    """

    def nest(match: re.Match[str]) -> str:
        level, index = divmod(int(match[1]), blocks + 1)
        return f"decoder.up_blocks.{level}." + (f"resnets.{index}." if index < blocks else "upsamplers.0.")

    return re.sub(r"^decoder\.layers\.(\d+)\.", nest, substitute(name, _RULES))
