"""How much information the code of a bottleneck carries, counted over validation samples.

A large codebook cannot be counted codeword by codeword. Quantizers whose codewords are made of parts (the bits of sign
quantizers, the levels of FSQ) are counted part by part; others, by codeword.

Shapes: B batch; N positions; G tokens per position; P parts of a token; L values of a part; C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from smalti.tokenizers.bottlenecks.base import Bottleneck, Quantizer
from smalti.tokenizers.bottlenecks.fsq import FSQ
from smalti.tokenizers.bottlenecks.kl import KL, LOG_VARIANCE_RANGE
from smalti.tokenizers.bottlenecks.sign_quantizer import SignQuantizer
from smalti.types import Code

MAX_COUNTED_CODEWORDS = 2**20
"""Larger codebooks without parts are not counted: no validation has enough tokens for them."""

PartKind = Literal["bit", "level", "codeword"]


@dataclass
class PartCounts:
    """How often each value of each part of a token occurs.

    Attributes:
        kind: what the parts are: "bit" of a sign quantizer, "level" of an FSQ channel, "codeword" of a codebook.
        sizes: number of values of each of the P parts, at most L.
        counts: (G, P, L) int64.
    """

    kind: PartKind
    sizes: list[int]
    counts: Tensor

    @property
    def positions(self) -> int:
        """Number of latent positions that were counted."""
        return int(self.counts[0, 0].sum())

    def shares(self) -> Tensor:
        """Return the frequency of each value, (G, P, L) float64; zeros if nothing was counted."""
        return self.counts.double() / max(self.positions, 1)

    def entropies(self) -> Tensor:
        """Return the entropy of each part in bits, (G, P) float64."""
        p = self.shares()
        return -(p * p.clamp_min(1e-300).log2()).sum(-1)

    def capacities(self) -> Tensor:
        """Return the largest entropy that each part could have, in bits: (P,), limited by the number of positions."""
        return torch.tensor([math.log2(max(1, min(size, self.positions))) for size in self.sizes], dtype=torch.float64)


@dataclass
class GaussianSums:
    """Sums over positions of a diagonal Gaussian, per channel.

    Attributes:
        positions: number of positions.
        mean: (C,) float64, sum of the means.
        square: (C,) float64, sum of the squared means.
        variance: (C,) float64, sum of the variances.
        divergence: (C,) float64, sum of KL(N(mean, variance) || N(0, 1)) in nats.
    """

    positions: int
    mean: Tensor
    square: Tensor
    variance: Tensor
    divergence: Tensor

    def information(self) -> Tensor:
        """Return about how many bits each channel carries per position: log2(1 + Var[mean] / E[variance]) / 2, (C,).

        This is the capacity of a Gaussian channel with this ratio of signal to noise. It is 0 for a channel whose mean is
        the same everywhere, whatever this mean is.
        """
        n = max(self.positions, 1)
        signal = (self.square / n - (self.mean / n).square()).clamp_min(0)
        return (1 + signal / (self.variance / n).clamp_min(1e-30)).log2() / 2

    def divergences(self) -> Tensor:
        """Return the mean KL divergence of each channel in nats, (C,)."""
        return self.divergence / max(self.positions, 1)


@dataclass
class CodeUsage:
    """What was counted for one bottleneck; one of the two, or none for a bottleneck of another kind.

    Attributes:
        name: name of the branch of a joint tokenizer; "" for others.
        parts: counts of a quantizer.
        gaussian: sums of a `KL`.
    """

    name: str = ""
    parts: PartCounts | None = None
    gaussian: GaussianSums | None = None

    @torch.no_grad()
    def update(self, bottleneck: nn.Module, h: Tensor, code: Code) -> None:
        """Count a batch.

        Args:
            bottleneck: the module that computed the code.
            h: its input, (B, N, C).
            code: its output.
        """
        if isinstance(bottleneck, Quantizer) and code.ids is not None:
            counted = _count_parts(bottleneck, code.ids)
            if counted is not None and self.parts is not None:
                counted.counts += self.parts.counts
            self.parts = counted
        elif isinstance(bottleneck, KL):
            counted = _sum_gaussian(bottleneck, h)
            if self.gaussian is not None:
                counted = _add(counted, self.gaussian)
            self.gaussian = counted

    def merge(self, other: CodeUsage) -> None:
        """Add what another process has counted."""
        if other.parts is not None:
            if self.parts is not None:
                other.parts.counts += self.parts.counts
            self.parts = other.parts
        if other.gaussian is not None:
            self.gaussian = other.gaussian if self.gaussian is None else _add(self.gaussian, other.gaussian)

    def to_cpu(self) -> CodeUsage:
        """Return a copy on the CPU, for other processes."""
        parts, sums = self.parts, self.gaussian
        return CodeUsage(
            self.name,
            None if parts is None else PartCounts(parts.kind, parts.sizes, parts.counts.cpu()),
            None
            if sums is None
            else GaussianSums(
                sums.positions, sums.mean.cpu(), sums.square.cpu(), sums.variance.cpu(), sums.divergence.cpu()
            ),
        )


@contextmanager
def count_code_usage(bottleneck: Bottleneck) -> Iterator[list[CodeUsage]]:
    """Count whatever a bottleneck computes until the end of the block.

    Yields:
        One `CodeUsage` per branch of a joint bottleneck, and per innermost bottleneck; complete at any time.
    """
    usages: list[CodeUsage] = []
    handles = []
    for name, branch in (bottleneck.branches or {"": bottleneck}).items():
        for module in innermost_bottlenecks(branch):
            usage = CodeUsage(name)
            usages.append(usage)

            def count(module: nn.Module, inputs: tuple[Any, ...], code: Code, usage: CodeUsage = usage) -> None:
                usage.update(module, inputs[0].detach(), code)

            handles.append(module.register_forward_hook(count))
    try:
        yield usages
    finally:
        for handle in handles:
            handle.remove()


def innermost_bottlenecks(bottleneck: Bottleneck) -> list[Bottleneck]:
    """Return the bottlenecks in a bottleneck that contain no other one, such as the FSQ in a `Projected`."""
    inside = [module for module in bottleneck.modules() if isinstance(module, Bottleneck)]
    return [one for one in inside if not any(other is not one and other in inside for other in one.modules())]


def _count_parts(quantizer: Quantizer, ids: Tensor) -> PartCounts | None:
    """Count the parts of ids (B, N, G); None if the codebook is too large and has no parts."""
    ids = ids.flatten(0, 1)  # (positions, G)
    if isinstance(quantizer, SignQuantizer):
        sizes: list[int] = [2] * quantizer.token_bits
        kind: PartKind = "bit"
    elif isinstance(quantizer, FSQ):
        sizes, kind = quantizer.levels, "level"
    elif quantizer.codebook_size <= MAX_COUNTED_CODEWORDS:
        sizes, kind = [quantizer.codebook_size], "codeword"
    else:
        return None
    groups, parts, values = ids.shape[1], len(sizes), max(sizes)
    counts = torch.zeros(groups, parts, values, dtype=torch.int64, device=ids.device)
    place = 1
    for part, size in enumerate(sizes):
        digits = ids // place % size  # (positions, G)
        counts[:, part].scatter_add_(1, digits.T, torch.ones_like(digits.T))
        place *= size
    return PartCounts(kind, list(sizes), counts)


def _sum_gaussian(bottleneck: KL, h: Tensor) -> GaussianSums:
    """Return the sums of h (B, N, in_dim)."""
    h = h.flatten(0, 1).double() if h.device.type != "mps" else h.flatten(0, 1).float()
    mean, log_variance = h.split([bottleneck.dim, bottleneck.in_dim - bottleneck.dim], dim=-1)
    log_variance = (log_variance + 2 * math.log(bottleneck.initial_std)).clamp(*LOG_VARIANCE_RANGE).expand_as(mean)
    variance = log_variance.exp()
    divergence = (mean.square() + variance - 1 - log_variance) / 2
    return GaussianSums(len(h), mean.sum(0), mean.square().sum(0), variance.sum(0), divergence.sum(0))


def _add(one: GaussianSums, other: GaussianSums) -> GaussianSums:
    return GaussianSums(
        one.positions + other.positions,
        one.mean + other.mean,
        one.square + other.square,
        one.variance + other.variance,
        one.divergence + other.divergence,
    )
