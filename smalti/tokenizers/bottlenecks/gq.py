"""Group-wise lookup-free quantization."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.entropy import codebook_entropy
from smalti.tokenizers.bottlenecks.sign_quantizer import SignQuantizer


class GQ(SignQuantizer):
    """Group-wise lookup-free quantization (WeTok, arXiv 2508.05599, section 3.2); one group is LFQ (arXiv 2310.05737).

    z is in {-1, 1}. See `SignQuantizer` for the order of channels and bits, and for the losses, which are exact
    (`entropy`). vector-quantize-pytorch's `LFQ` computes the same for one group, but by a table of every token
    against every code, with a clamped logarithm, and not over the global batch.

    Args:
        groups: tokens a position.
        bits: bits a token, up to 24, where the mean distribution has 2^24 numbers.
        codebook_entropy: what the loss of that name is, in [0, bits ln 2] either way.
            "per_group": the entropy of each group's own mean soft code, averaged over the groups (the paper's text sums).
            "pooled": of the mean over the groups too, as the published models were trained. It is blind to groups that
            collapsed, each onto its own part of the codebook.
        temperature: of the soft codes; 0.01 is published.
        log_offset: 0.0 for the exact codebook entropy; published models were trained with 1e-5 inside the logarithm, which
            caps it at 11.51 nats.

    Raises:
        SmaltiError: no group, no bit or more than 24, another `codebook_entropy`, a temperature that is not positive, or a
            negative offset.
    """

    def __init__(
        self,
        groups: int,
        bits: int,
        codebook_entropy: Literal["per_group", "pooled"] = "per_group",
        temperature: float = 0.01,
        log_offset: float = 0.0,
    ) -> None:
        advice = "split them over more groups, or use BSQ, whose codebook entropy needs no 2^bits numbers"
        super().__init__(groups, bits, temperature, scale=1.0, most_bits=24, advice=advice)
        if codebook_entropy not in ("per_group", "pooled"):
            raise SmaltiError(f"GQ's codebook_entropy is 'per_group' or 'pooled', not '{codebook_entropy}'.")
        if log_offset < 0:
            raise SmaltiError(f"GQ's log_offset is 0 or more, not {log_offset}.")
        self.codebook_entropy = codebook_entropy
        self.log_offset = log_offset

    def books(self, logits: Tensor) -> Tensor:
        """(B N, G, bits) to one book a group (G, 1, B N, bits), or one of all tokens (1, 1, B N G, bits)."""
        if self.codebook_entropy == "pooled":
            return logits.reshape(1, 1, -1, self.bits)
        return logits.transpose(0, 1).unsqueeze(1)

    def book_entropy(self, distribution: Tensor) -> Tensor:
        """(..., 2^bits) to (...)."""
        return codebook_entropy(distribution, self.log_offset)
