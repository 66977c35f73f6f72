"""Exact entropies of soft assignments to sign vectors, without a table of all tokens and all codewords.

Lookup-free quantizers (MAGVIT-v2, arXiv 2310.05737; WeTok, arXiv 2508.05599) are trained on the entropies of the soft
assignment of each token x to all 2^bits sign vectors c, p(c) = softmax(2 x.c / T). Given x, the bits of c are independent
with p(bit = 1) = sigmoid(4 x / T). The (N, 2^bits) table of all probabilities is not needed:

- The entropy of a token is the sum of the entropies of its bits.
- p(c) factors into a term for the low half of the bits of c and a term for the high half. This makes the mean of p over N
  tokens a matrix product of two (N, 2^(bits / 2)) tables, which takes O(N 2^(bits / 2) + 2^bits) memory instead of
  O(N 2^bits).

Shapes: N tokens of a batch. Logits are 4 x / T, one per bit, in float32 or float64. The first bit of a codeword is the
lowest bit of its index.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def token_entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the soft assignment of each token in nats: (..., bits) to (...), in [0, bits ln 2].

    The result has the full relative precision of its dtype, also where the sigmoid saturates.
    """
    # The entropy of a bit is an even function of its logit. For -|logit|, the sigmoid is small and precise. For +|logit| it
    # would be close to 1, and 1 - sigmoid would cancel.
    magnitude = logits.abs()
    return (F.softplus(-magnitude) + magnitude * torch.sigmoid(-magnitude)).sum(dim=-1)


def mean_distribution(logits: Tensor) -> Tensor:
    """Return the mean soft assignment over N tokens: (..., N, bits) to (..., 2^bits), each row summing to 1."""
    distribution: Tensor = _MeanDistribution.apply(logits)  # pyright: ignore[reportAssignmentType]
    return distribution


def codebook_entropy(distribution: Tensor, log_offset: float = 0.0) -> Tensor:
    """Return the entropy of distributions in nats: (..., codebook_size) to (...).

    Args:
        distribution: probabilities. Zeros are allowed; their gradient is finite.
        log_offset: 0 for the exact -sum p ln p. Published code computes -sum p ln(p + 1e-5), which cannot exceed 11.51 nats
            (2^16.6 codewords) however well the codebook is used.
    """
    tiny = torch.finfo(distribution.dtype).tiny
    shifted = distribution + log_offset if log_offset else distribution.clamp_min(tiny)
    return -(distribution * shifted.log()).sum(dim=-1)


class _MeanDistribution(torch.autograd.Function):
    """`mean_distribution` with a handwritten gradient: autograd would store one table per bit instead of two in total."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            bits = logits.mT.contiguous()  # (..., bits, N): all operations below run along the tokens
            low_bits, high_bits = _split_halves(bits)
            low, high = _probability_table(low_bits), _probability_table(high_bits)
            distribution = (high @ low.mT).flatten(-2) / bits.shape[-1]
            ctx.save_for_backward(bits, low, high, distribution)
            return distribution

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        bits, low, high, distribution = ctx.saved_tensors
        with torch.autocast(bits.device.type, enabled=False):
            # Each row sums to 1 for all logits, and a constant in its gradient has no effect. Removing it adds precision.
            gradient = gradient - (gradient * distribution).sum(dim=-1, keepdim=True)
            gradient = gradient.unflatten(-1, (high.shape[-2], low.shape[-2])) / bits.shape[-1]
            low_bits, high_bits = _split_halves(bits)
            low_gradient = _table_gradient(gradient.mT @ high, low, low_bits)
            high_gradient = _table_gradient(gradient @ low, high, high_bits)
            return torch.cat([low_gradient, high_gradient], dim=-2).mT


def _split_halves(bits: Tensor) -> tuple[Tensor, Tensor]:
    """Split (..., bits, N) into the low and the high half of the bits."""
    half = bits.shape[-2] // 2
    return bits[..., :half, :], bits[..., half:, :]


def _probability_table(bits: Tensor) -> Tensor:
    """Return the probability of every combination of a few bits: logits (..., bits, N) to (..., 2^bits, N)."""
    count = bits.shape[-2]
    if count == 0:
        return bits.new_ones(*bits.shape[:-2], 1, bits.shape[-1])
    if count == 1:
        table = torch.cat([torch.sigmoid(-bits), torch.sigmoid(bits)], dim=-2)
    else:  # the outer product of the tables of both halves, which is the only large tensor
        low, high = map(_probability_table, _split_halves(bits))
        table = (high.unsqueeze(-2) * low.unsqueeze(-3)).flatten(-3, -2)
    # Flush negligible values to 0: CPUs are a hundred times slower on subnormal numbers, here and in later products.
    return torch.threshold_(table, torch.finfo(bits.dtype).tiny ** 0.5, 0.0)


def _table_gradient(gradient: Tensor, table: Tensor, bits: Tensor) -> Tensor:
    """Return the gradient of the logits (..., bits, N), given the gradient of their table (..., 2^bits, N), in place.

    d table_c / d logit_i = table_c (c_i - p_i): table_c (1 - p_i) if bit i of c is set, and -table_c p_i otherwise.
    """
    weighted = gradient.mul_(table)
    shifts = torch.arange(bits.shape[-2], device=bits.device).unsqueeze(-1)
    is_set = (torch.arange(table.shape[-2], device=bits.device) >> shifts & 1).to(bits.dtype)  # (bits, 2^bits)
    return torch.sigmoid(-bits) * (is_set @ weighted) - torch.sigmoid(bits) * ((1 - is_set) @ weighted)
