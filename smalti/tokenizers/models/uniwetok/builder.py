"""Building a UniWeTok tokenizer (arXiv 2602.14178) from its stride and its bottleneck."""

from __future__ import annotations

from smalti.tokenizers.bottlenecks.base import Bottleneck
from smalti.tokenizers.bottlenecks.sign_quantizer import SignQuantizer
from smalti.tokenizers.models.levels import count_halvings, fit_multipliers
from smalti.tokenizers.models.uniwetok.decoder import UniWeTokDecoder
from smalti.tokenizers.models.uniwetok.encoder import UniWeTokEncoder
from smalti.tokenizers.tokenizer import Tokenizer

_MULTIPLIERS = [1, 1, 2, 2, 4, 8]
"""Multipliers at stride 32 of BitDance's tokenizers, which have the same authors. UniWeTok's own are not published."""


def uniwetok(
    bottleneck: Bottleneck,
    stride: int = 32,
    channels: int = 128,
    multipliers: list[int] | None = None,
    blocks: int = 4,
    groups: int | None = 32,
    attention_blocks: int = 2,
    attention_heads: int = 16,
) -> Tokenizer:
    """Build a UniWeTok tokenizer with random weights. The bottleneck and the stride determine all other sizes.

    Latents of quantizers that take signs (`GQ`, `BSQ`) are bounded by SigLu. Other bottlenecks have bounds of their own, or
    none.

    >>> from smalti.tokenizers.bottlenecks import GQ
    >>> uniwetok(GQ(groups=16, bits=8), channels=32).encoder.stride
    (1, 32, 32)

    Args:
        bottleneck: the bottleneck, which determines the latent channels.
        stride: height and width in pixels that one latent position covers, a power of 2.
        channels: base number of channels, a multiple of `groups`.
        multipliers: channel multiplier of each of the log2(stride) + 1 levels, from pixels to latents. A shorter list is
            extended with its last entry, and a longer one is cut. None: [1, 1, 2, 2, 4, 8].
        blocks: residual blocks per level.
        groups: groups of all group norms; None: no norms, recommended for narrow networks.
        attention_blocks: attention blocks in the encoder, and as many in the decoder.
        attention_heads: heads of each attention block; the channels of the last level must be a multiple of 4 times this.

    Raises:
        SmaltiError: `stride` is not a power of 2, or an argument does not describe a valid network.
    """
    widths = fit_multipliers(_MULTIPLIERS if multipliers is None else multipliers, count_halvings(stride) + 1)
    shape = (channels, widths, blocks, groups, attention_blocks, attention_heads)
    bounded = isinstance(bottleneck, SignQuantizer)
    return Tokenizer(
        UniWeTokEncoder(bottleneck.in_dim, *shape, bounded=bounded),
        bottleneck,
        UniWeTokDecoder(bottleneck.out_dim, *shape),
    )
