"""Building a Cosmos tokenizer (arXiv 2501.03575) from its stride and its bottleneck."""

from __future__ import annotations

from smalti.tokenizers.bottlenecks.base import Bottleneck
from smalti.tokenizers.models.cosmos.decoder import CosmosDecoder
from smalti.tokenizers.models.cosmos.encoder import CosmosEncoder
from smalti.tokenizers.tokenizer import Tokenizer


def cosmos(
    bottleneck: Bottleneck,
    stride: tuple[int, int, int] = (1, 8, 8),
    z_channels: int = 16,
    channels: int = 128,
    multipliers: list[int] | None = None,
    blocks: int = 2,
    patch: int = 4,
) -> Tokenizer:
    """Build a Cosmos tokenizer with random weights. The bottleneck and the stride determine all other sizes.

    >>> from smalti.tokenizers.bottlenecks import FSQ
    >>> cosmos(FSQ([8, 8, 8, 5, 5, 5]), stride=(8, 16, 16), channels=8).encoder.stride
    (8, 16, 16)

    Args:
        bottleneck: the bottleneck, which determines the latent channels.
        stride: frames T, height and width in pixels that one latent position covers, powers of 2. With T = 1, the networks
            are 2-D and encode each frame of a clip separately.
        z_channels: see `CosmosEncoder`.
        channels: base number of channels; a multiple of 32 in networks for images.
        multipliers: channel multiplier of each level; None for the published ones, [2, 4, 4].
        blocks: residual blocks per level of the encoder; each level of the decoder has one more.
        patch: frames, height and width of the patches that Haar wavelets turn into channels, a power of 2.

    Raises:
        SmaltiError: the arguments do not describe a valid network.
    """
    shape = (stride, z_channels, channels, multipliers, blocks, patch)
    return Tokenizer(CosmosEncoder(bottleneck.in_dim, *shape), bottleneck, CosmosDecoder(bottleneck.out_dim, *shape))
