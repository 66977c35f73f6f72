"""Building a WeTok tokenizer (arXiv 2508.05599) from its stride and its bottleneck."""

from __future__ import annotations

from smalti.tokenizers.bottlenecks.base import Bottleneck
from smalti.tokenizers.models.levels import count_halvings, fit_multipliers
from smalti.tokenizers.models.wetok.decoder import WeTokDecoder, WeTokGenerativeDecoder
from smalti.tokenizers.models.wetok.encoder import WeTokEncoder
from smalti.tokenizers.tokenizer import Tokenizer

_PUBLISHED = {8: [1, 2, 2, 4], 16: [1, 1, 2, 2, 4], 32: [1, 1, 2, 2, 4, 8]}
"""Published multipliers by stride."""


def wetok(
    bottleneck: Bottleneck,
    stride: int = 16,
    channels: int = 256,
    multipliers: list[int] | None = None,
    blocks: int = 4,
    groups: int | None = 32,
    *,
    generative: bool = False,
) -> Tokenizer:
    """Build a WeTok tokenizer with random weights. The bottleneck and the stride determine all other sizes.

    >>> from smalti.tokenizers.bottlenecks import GQ
    >>> wetok(GQ(groups=4, bits=8), stride=8, channels=32).encoder.stride
    (1, 8, 8)

    Args:
        bottleneck: the bottleneck, which determines the latent channels.
        stride: height and width in pixels that one latent position covers, a power of 2.
        channels: base number of channels, a multiple of `groups`.
        multipliers: channel multiplier of each of the log2(stride) + 1 levels, from pixels to latents. A shorter list is
            extended with its last entry, and a longer one is cut. None: the published ones, [1, 2, 2, 4] for a stride of 8
            or less, [1, 1, 2, 2, 4] for 16, and [1, 1, 2, 2, 4, 8] for 32 or more.
        blocks: residual blocks per level.
        groups: groups of all group norms; None: no norms, recommended for narrow networks.
        generative: whether the decoder draws noise (`WeTokGenerativeDecoder`).

    Raises:
        SmaltiError: `stride` is not a power of 2, or an argument does not describe a valid network.
    """
    halvings = count_halvings(stride)
    if multipliers is None:
        multipliers = _PUBLISHED[min(max(stride, 8), 32)]
    widths = fit_multipliers(multipliers, halvings + 1)
    decoder = WeTokGenerativeDecoder if generative else WeTokDecoder
    return Tokenizer(
        WeTokEncoder(bottleneck.in_dim, channels, widths, blocks, groups),
        bottleneck,
        decoder(bottleneck.out_dim, channels, widths, blocks, groups),
    )
