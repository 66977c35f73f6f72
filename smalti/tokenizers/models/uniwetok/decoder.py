"""UniWeTok's decoder: WeTok's generative decoder with attention before its residual blocks.

Shapes: B batch; T frames; h, w latent positions; C channels of the level of the latents; Z latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import Errors
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.models.uniwetok.attention import GridAttention
from smalti.tokenizers.models.uniwetok.positions import decoder_spacing
from smalti.tokenizers.models.wetok.decoder import WeTokGenerativeDecoder


class UniWeTokDecoder(WeTokGenerativeDecoder):
    """Decodes one grid, frame by frame, and draws noise.

        z and noise -> conv 3x3 -> attention blocks -> residual blocks -> levels of `WeTokDecoder`

    Args:
        in_dim: latent channels Z.
        channels: base number of channels, a multiple of `groups`.
        multipliers: channel multiplier of each level, from pixels to latents; None for [1, 1, 2, 2, 4].
        blocks: residual blocks per level, and before the first level.
        groups: groups of all group norms; None: no norms, recommended for narrow networks.
        attention_blocks: attention blocks before the residual blocks.
        attention_heads: heads of each attention block; the channels of the last level must be a multiple of 4 times this.

    Raises:
        SmaltiError: the arguments do not describe a valid network.
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 128,
        multipliers: list[int] | None = None,
        blocks: int = 4,
        groups: int | None = 32,
        attention_blocks: int = 2,
        attention_heads: int = 16,
    ) -> None:
        super().__init__(in_dim, channels, multipliers, blocks, groups)
        self.attention = GridAttention(self.conv_in.out_channels, attention_blocks, attention_heads, decoder_spacing)

    def linear_start(self, pyramid: Pyramid, code: StartCode, latents: Sequence[tuple[Tensor, ...]]) -> Errors:
        """Set the weights as in `WeTokDecoder.linear_start`. The attention blocks start as the identity."""
        self.attention.set_to_identity()
        return super().linear_start(pyramid, code, latents)

    def _decode_positions(self, h: Tensor) -> Tensor:
        return self.middle(self.attention(h))
