"""Group-wise lookup-free quantization."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.entropy import codebook_entropy
from smalti.tokenizers.bottlenecks.gradient_estimators import GradientEstimator
from smalti.tokenizers.bottlenecks.sign_quantizer import SignQuantizer


class GQ(SignQuantizer):
    """Group-wise lookup-free quantization (WeTok, arXiv 2508.05599, section 3.2); one group is LFQ (arXiv 2310.05737).

    Channels of z are -1 or 1. See `SignQuantizer` for the order of channels and bits, and for the losses, which are exact
    (see `entropy`). vector-quantize-pytorch's `LFQ` computes the same losses for one group, but with a table of all tokens
    and codewords, with a clamped logarithm, and not over the global batch.

    Args:
        groups: tokens per position.
        bits: bits per token, in [1, 24]. The mean distribution has 2^bits entries.
        codebook_entropy: definition of the loss of that name, which is in [0, bits ln 2] either way.
            "per_group": the entropy of the mean soft assignment of each group, averaged over the groups (the text of the
            paper sums them).
            "pooled": the mean is also taken over the groups, as for the published models. It does not detect groups that
            collapsed to different parts of the codebook.
        temperature: temperature of the soft assignment; the paper uses 0.01.
        log_offset: added to the probability inside the logarithm of the codebook entropy. 0.0 is exact; published models
            were trained with 1e-5, which limits the entropy to 11.51 nats.
        gradient: how gradients pass the signs: "straight_through" (the paper), "clipped" or "rotation", see
            `estimate_gradient`.

    Raises:
        SmaltiError: `groups` or `temperature` is not positive, `bits` is not in [1, 24], `codebook_entropy` or `gradient`
            is unknown, or `log_offset` is negative.
    """

    def __init__(
        self,
        groups: int,
        bits: int,
        codebook_entropy: Literal["per_group", "pooled"] = "per_group",
        temperature: float = 0.01,
        log_offset: float = 0.0,
        gradient: GradientEstimator = "straight_through",
    ) -> None:
        advice = "split them into more groups, or use BSQ, whose codebook entropy needs no table of 2^bits entries"
        super().__init__(groups, bits, temperature, scale=1.0, max_bits=24, advice=advice, gradient=gradient)
        if codebook_entropy not in ("per_group", "pooled"):
            raise SmaltiError(f"GQ's codebook_entropy is 'per_group' or 'pooled', not '{codebook_entropy}'.")
        if log_offset < 0:
            raise SmaltiError(f"GQ's log_offset must be at least 0, not {log_offset}.")
        self.codebook_entropy = codebook_entropy
        self.log_offset = log_offset

    def split_codebooks(self, logits: Tensor) -> Tensor:
        """Return (B N, G, bits) as one codebook per group (G, 1, B N, bits), or one for all tokens (1, 1, B N G, bits)."""
        if self.codebook_entropy == "pooled":
            return logits.reshape(1, 1, -1, self.bits)
        return logits.transpose(0, 1).unsqueeze(1)

    def distribution_entropy(self, distribution: Tensor) -> Tensor:
        """Return the entropy of (..., 2^bits) in nats, with `log_offset` inside the logarithm."""
        return codebook_entropy(distribution, self.log_offset)
