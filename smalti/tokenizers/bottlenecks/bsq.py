"""Binary spherical quantization."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from smalti.tokenizers.bottlenecks.sign_quantizer import SignQuantizer


class BSQ(SignQuantizer):
    """Binary spherical quantization (arXiv 2406.07548): signs of a vector that was put on the unit sphere.

    Each group is L2-normalised and its code is sign / sqrt(bits), on the sphere too, so the quantization error is
    bounded. See `SignQuantizer` for the order of channels and bits, and for the losses. The codebook entropy takes the
    bits of the mean soft code for independent: the sum of the entropies of the mean bits, averaged over the groups. It is
    an upper bound of the exact one, in [0, bits ln 2], and the reason why a token may have 62 bits.

    Args:
        bits: bits a token, up to 62.
        groups: tokens a position, each normalised on its own.
        temperature: of the soft codes; 0.01 is published.

    Raises:
        SmaltiError: no group, no bit or more than 62, or a temperature that is not positive.
    """

    def __init__(self, bits: int, groups: int = 1, temperature: float = 0.01) -> None:
        advice = "split them over more groups"
        super().__init__(groups, bits, temperature, scale=max(bits, 1) ** -0.5, most_bits=62, advice=advice)

    def placed(self, x: Tensor) -> Tensor:
        """(B, N, G, bits) to unit vectors."""
        return F.normalize(x, dim=-1)

    def books(self, logits: Tensor) -> Tensor:
        """(B N, G, bits) to a factor of one bit for each bit of each group, (G, bits, B N, 1)."""
        return logits.permute(1, 2, 0).unsqueeze(-1)
