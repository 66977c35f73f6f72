"""Building a OneVAE tokenizer (arXiv 2508.09857) from its stride and its bottleneck."""

from __future__ import annotations

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck
from smalti.tokenizers.models.levels import count_halvings, fit_multipliers
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder
from smalti.tokenizers.models.onevae.levels import Strides
from smalti.tokenizers.tokenizer import Tokenizer

_PUBLISHED = [1, 2, 4, 4]
"""Published multipliers of Wan2.1 and OneVAE; networks with more levels repeat the last one."""


def onevae(
    bottleneck: Bottleneck,
    stride: tuple[int, int, int] = (8, 16, 16),
    channels: int = 96,
    multipliers: list[int] | None = None,
    blocks: int = 2,
    *,
    first_frame: bool = False,
    norm: bool = True,
) -> Tokenizer:
    """Build a OneVAE tokenizer with random weights. The bottleneck and the stride determine all other sizes.

    Every level but the last halves height and width. The last log2(T) of these also halve the number of frames.

    >>> from smalti.tokenizers.bottlenecks import KL
    >>> onevae(KL(16), stride=(4, 8, 8), channels=8).encoder.stride
    (4, 8, 8)

    Args:
        bottleneck: the bottleneck, which determines the latent channels.
        stride: frames T, height and width in pixels that one latent position covers, powers of 2. Height and width are
            equal, and T is at most as large.
        channels: base number of channels.
        multipliers: channel multiplier of each of the log2(height) + 1 levels, from pixels to latents. A shorter list is
            extended with its last entry, and a longer one is cut. None: the published multipliers, [1, 2, 4, 4].
        blocks: residual blocks per level of the encoder; each level of the decoder has one more.
        first_frame: whether the first frame has a separate grid of twice the height and width.
        norm: whether the networks have norms. False removes all norms except the one before attention, recommended for
            narrow networks.

    Raises:
        SmaltiError: `stride` or another argument does not describe a valid network.
    """
    strides = _level_strides(stride)
    widths = fit_multipliers(_PUBLISHED if multipliers is None else multipliers, len(strides) + 1)
    return Tokenizer(
        OneVAEEncoder(bottleneck.in_dim, channels, widths, strides, blocks, first_frame, norm),
        bottleneck,
        OneVAEDecoder(bottleneck.out_dim, channels, widths, strides, blocks, first_frame, norm),
    )


def _level_strides(stride: tuple[int, int, int]) -> Strides:
    """Return the [time, space] strides between neighboring levels, from pixels to latents."""
    time, height, width = stride
    if height != width or time > height:
        raise SmaltiError(
            f"stride is {list(stride)}: give [frames, height, width], with equal height and width and at most as many "
            "frames."
        )
    levels, halvings_in_time = count_halvings(height), count_halvings(time)
    return [[2 if level >= levels - halvings_in_time else 1, 2] for level in range(levels)]
