"""Entropies of soft binary codes, exact, without the table of every token against every code.

Lookup-free quantizers (MAGVIT-v2, arXiv 2310.05737; WeTok, arXiv 2508.05599) are trained on the entropies of a soft
assignment of each token to all 2^bits sign vectors c, p(c) = softmax(2 x.c / T). Given x, the bits of c are independent,
p(bit = 1) = sigmoid(4 x / T), so nothing here needs that N x 2^bits table:

- a token's entropy is the sum of the entropies of its bits;
- p(c) = (part of the low half of c's bits) * (part of the high half), so the mean of p over N tokens is one matrix product
  of two tables N x 2^(bits / 2). Memory O(N 2^(bits / 2) + 2^bits) instead of O(N 2^bits).

Shapes: N tokens of a batch; a code's first bit is the lowest of its index. Logits are 4 x / T, one a bit, in float32 or
float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy of each token's soft code in nats: (..., bits) to (...), each in [0, bits ln 2].

    Accurate to float precision, relative, also where sigmoid saturates.
    """
    # The entropy of a bit is even in its logit; with -|logit|, sigmoid is small where it matters, never 1 - small.
    size = logits.abs()
    return (F.softplus(-size) + size * torch.sigmoid(-size)).sum(dim=-1)


def mean_distribution(logits: Tensor) -> Tensor:
    """Mean over the N tokens of their soft codes: (..., N, bits) to (..., 2^bits), each row summing to 1."""
    distribution: Tensor = _MeanDistribution.apply(logits)  # pyright: ignore[reportAssignmentType]
    return distribution


def codebook_entropy(distribution: Tensor, log_offset: float = 0.0) -> Tensor:
    """Entropy of distributions in nats: (..., codes) to (...).

    Args:
        distribution: probabilities; zeros are welcome, also to the gradient.
        log_offset: 0 for the exact -sum p ln p; published code computes -sum p ln(p + 1e-5), which no codebook, however
            well used, brings above 11.51 nats (2^16.6 codes).
    """
    tiny = torch.finfo(distribution.dtype).tiny
    shifted = distribution + log_offset if log_offset else distribution.clamp_min(tiny)
    return -(distribution * shifted.log()).sum(dim=-1)


class _MeanDistribution(torch.autograd.Function):
    """`mean_distribution`, with a gradient by hand: autograd would keep a table for every bit instead of two."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            bits = logits.mT.contiguous()  # (..., bits, N): every step below runs along the tokens
            low, high = _table(bits[..., : bits.shape[-2] // 2, :]), _table(bits[..., bits.shape[-2] // 2 :, :])
            distribution = (high @ low.mT).flatten(-2) / bits.shape[-1]
            ctx.save_for_backward(bits, low, high, distribution)
            return distribution

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        bits, low, high, distribution = ctx.saved_tensors
        with torch.autocast(bits.device.type, enabled=False):
            # A row sums to 1 whatever the logits, so a constant in its gradient does nothing but cost precision.
            gradient = gradient - (gradient * distribution).sum(dim=-1, keepdim=True)
            gradient = gradient.unflatten(-1, (high.shape[-2], low.shape[-2])) / bits.shape[-1]
            of_low = _table_gradient(gradient.mT @ high, low, bits[..., : bits.shape[-2] // 2, :])
            of_high = _table_gradient(gradient @ low, high, bits[..., bits.shape[-2] // 2 :, :])
            return torch.cat([of_low, of_high], dim=-2).mT


def _table(bits: Tensor) -> Tensor:
    """Probability of every code of a few bits: logits (..., bits, N) to (..., 2^bits, N)."""
    *leading, count, tokens = bits.shape
    table = bits.new_empty(*leading, 2**count, tokens)
    table[..., 0, :] = 1
    on, off = torch.sigmoid(bits), torch.sigmoid(-bits)
    for i in range(count):  # each bit, from the lowest, doubles what is there
        known, new = table[..., : 2**i, :], table[..., 2**i : 2 ** (i + 1), :]
        torch.mul(known, on[..., i : i + 1, :], out=new)
        known *= off[..., i : i + 1, :]
    # What cannot matter becomes 0: processors take a hundred times longer over subnormal numbers, also in later products.
    return torch.threshold_(table, torch.finfo(bits.dtype).tiny ** 0.5, 0.0)


def _table_gradient(gradient: Tensor, table: Tensor, bits: Tensor) -> Tensor:
    """Gradient to the logits (..., bits, N) from the `gradient` (..., 2^bits, N) to their table; overwrites `gradient`.

    d table_c / d logit_i = table_c (c_i - p_i), that is table_c (1 - p_i) where bit i is set and -table_c p_i elsewhere.
    """
    weighted = gradient.mul_(table)
    places = torch.arange(bits.shape[-2], device=bits.device).unsqueeze(-1)
    is_set = (torch.arange(table.shape[-2], device=bits.device) >> places & 1).to(bits.dtype)  # (bits, 2^bits)
    return torch.sigmoid(-bits) * (is_set @ weighted) - torch.sigmoid(bits) * ((1 - is_set) @ weighted)
