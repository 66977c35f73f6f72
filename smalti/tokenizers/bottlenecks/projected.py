"""A quantizer of few channels in a latent of many."""

from __future__ import annotations

from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Quantizer
from smalti.types import Code


class Projected(Quantizer):
    """Linear to the quantizer's channels and back (factorised codes, arXiv 2110.04627; OneVAE, arXiv 2508.09857).

    Args:
        quantizer: what quantizes.
        dim: channels of the latent, given to the decoder.
        in_dim: channels that come in, of which the first `dim` are read: an encoder of a continuous tokenizer has
            log-variances after its means; None: `dim`.

    Raises:
        SmaltiError: `in_dim` is smaller than `dim`.
    """

    def __init__(self, quantizer: Quantizer, dim: int, in_dim: int | None = None) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.in_dim = dim if in_dim is None else in_dim
        self.out_dim = dim
        if not 1 <= dim <= self.in_dim:
            raise SmaltiError(
                f"Projected reads dim {dim} of in_dim {self.in_dim} channels: give at least 1, at most all."
            )
        self.codebook_size = quantizer.codebook_size
        self.tokens_per_position = quantizer.tokens_per_position
        self.down = nn.Linear(dim, quantizer.in_dim)
        self.up = nn.Linear(quantizer.out_dim, dim)

    def quantize(self, h: Tensor) -> Code:
        """(B, N, in_dim) to z (B, N, dim) and the quantizer's ids and losses."""
        inner = self.quantizer(self.down(h[..., : self.out_dim]))
        return Code(self.up(inner.z), inner.ids, inner.losses)

    def dequantize(self, ids: Tensor) -> Tensor:
        """(B, N, G) to (B, N, dim)."""
        return self.up(self.quantizer.lookup(ids).to(self.up.weight.dtype))
