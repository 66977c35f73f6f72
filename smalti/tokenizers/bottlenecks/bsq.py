"""Binary spherical quantization."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from smalti.tokenizers.bottlenecks.gradient_estimators import GradientEstimator
from smalti.tokenizers.bottlenecks.sign_quantizer import SignQuantizer


class BSQ(SignQuantizer):
    """Binary spherical quantization (arXiv 2406.07548): the signs of a vector that is projected to the unit sphere.

    Each group is L2-normalized. Its codeword is sign / sqrt(bits), which also lies on the sphere. The quantization error is
    bounded. See `SignQuantizer` for the order of channels and bits, and for the losses.

    The codebook entropy treats the bits of the mean soft assignment as independent: it is the sum of the entropies of the
    mean bits, averaged over the groups. This is an upper bound on the exact entropy, in [0, bits ln 2]. It needs no table
    of 2^bits entries, which allows any number of bits. An id holds up to 62: more, such as 64, 128 or 256, are cut into
    several tokens with `token_bits`, which changes the ids only, not the codewords or the losses.

    Args:
        bits: bits per group.
        groups: vectors per position, each normalized separately.
        temperature: temperature of the soft assignment; the paper uses 0.01.
        token_bits: bits per token, in [1, 62], a divisor of `bits`; None for one token per group. Tokens of 8 bits are the
            bytes of the packed bits.
        gradient: how gradients pass the signs: "straight_through" (the paper), "clipped" or "rotation", see
            `estimate_gradient`.

    Raises:
        SmaltiError: `groups` or `temperature` is not positive, the bits per token are not in [1, 62], `token_bits` does not
            divide `bits`, or `gradient` is unknown.
    """

    def __init__(
        self,
        bits: int,
        groups: int = 1,
        temperature: float = 0.01,
        token_bits: int | None = None,
        gradient: GradientEstimator = "straight_through",
    ) -> None:
        advice = "split them into tokens with token_bits, such as 8"
        super().__init__(
            groups,
            bits,
            temperature,
            scale=max(bits, 1) ** -0.5,
            max_bits=62,
            advice=advice,
            gradient=gradient,
            token_bits=token_bits,
        )

    def project(self, x: Tensor) -> Tensor:
        """Normalize (B, N, G, bits) to unit vectors."""
        return F.normalize(x, dim=-1)

    def split_codebooks(self, logits: Tensor) -> Tensor:
        """Return one codebook per group with one factor per bit: (B N, G, bits) to (G, bits, B N, 1)."""
        return logits.permute(1, 2, 0).unsqueeze(-1)
