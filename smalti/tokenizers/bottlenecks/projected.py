"""A quantizer with linear projections around it."""

from __future__ import annotations

from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Quantizer
from smalti.types import Code


class Projected(Quantizer):
    """A quantizer between two linear projections, from the channels of the latent to those of the quantizer and back.

    ViT-VQGAN (arXiv 2110.04627) calls this factorized codes; OneVAE (arXiv 2508.09857) uses it with FSQ.

    Args:
        quantizer: quantizes the projected positions.
        dim: channels of the latent that the decoder receives.
        in_dim: channels of the input; None for `dim`. Only the first `dim` channels are used: the encoder of a continuous
            tokenizer returns the means first, then log-variances.

    Raises:
        SmaltiError: `dim` is not in [1, in_dim].
    """

    def __init__(self, quantizer: Quantizer, dim: int, in_dim: int | None = None) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.in_dim = dim if in_dim is None else in_dim
        self.out_dim = dim
        self.loss_names = quantizer.loss_names
        if not 1 <= dim <= self.in_dim:
            raise SmaltiError(
                f"Projected uses the first dim of in_dim channels, but dim is {dim} and in_dim {self.in_dim}: choose dim "
                "from 1 to in_dim."
            )
        self.codebook_size = quantizer.codebook_size
        self.tokens_per_position = quantizer.tokens_per_position
        self.down = nn.Linear(dim, quantizer.in_dim)
        self.up = nn.Linear(quantizer.out_dim, dim)

    def quantize(self, h: Tensor) -> Code:
        """Map (B, N, in_dim) to z (B, N, dim), with the ids and losses of the quantizer."""
        inner = self.quantizer(self.down(h[..., : self.out_dim]))
        return Code(self.up(inner.z), inner.ids, inner.losses)

    def dequantize(self, ids: Tensor) -> Tensor:
        """Map ids (B, N, G) to (B, N, dim)."""
        return self.up(self.quantizer.lookup(ids).to(self.up.weight.dtype))
