"""Sign vectors that represent principal components: the start of lookup-free quantizers.

A component with b bits is cut into the 2^b cells of a Lloyd-Max quantizer. The bits are the binary number of the cell,
which is a linear function of the signs. An encoder computes each bit as the sign of a triangle wave of the component.

Shapes: N positions; K coefficients; U hidden units; Z signs per position.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.tokenizers.bottlenecks.bit_allocation import allocate_bits
from smalti.tokenizers.linear_start.code import Readout, StartCode
from smalti.tokenizers.linear_start.scalar_quantizers import histograms, lloyd_max

MAX_BITS = 5
"""Maximum number of bits per component. The triangle waves of more bits need many hidden units and are steep."""

_SHARPNESS = 16.0
"""Scale of the hidden units in units of a cell's width, so that SiLU is nearly a ramp at the next zero of a wave."""

_EDGE_WEIGHT = 1e4
"""Weight of a wave's zeros in the fit, relative to its slope."""

_NEAR = 0.1
"""Distance from an edge, in units of a cell's width, within which the waves are fitted."""


@dataclass(frozen=True)
class CodedComponent:
    """The cells of one component.

    Attributes:
        index: index of the component.
        first: first channel of the sign vector that holds its bits, the most significant one.
        edges: (2^b - 1,) boundaries of the cells in standard deviations, in ascending order.
    """

    index: int
    first: int
    edges: Tensor

    @property
    def bits(self) -> int:
        """Number of bits b."""
        return len(self.edges).bit_length()

    def turns(self) -> Tensor:
        """Return where the triangle waves turn: the (2^b - 2,) centers of the inner cells."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def waves(self, c: Tensor) -> Tensor:
        """Return triangle waves (..., b) of coefficients (...). Their signs are the bits of the cell's number."""
        waves = []
        for bit in range(self.bits):
            period = (len(self.edges) + 1) >> (bit + 1)  # the bit changes at every multiple of the period
            waves.append(_triangle_wave(c, self.edges[period - 1 :: period], self.turns()))
        return torch.stack(waves, dim=-1)


def binary_start(coefficients: Tensor, variances: Tensor, channels: int, hidden_units: int) -> StartCode:
    """Return how sign vectors represent principal components.

    Args:
        coefficients: (N, K) with variance 1, by decreasing variance of the component.
        variances: (K,) of the components.
        channels: number of signs per position.
        hidden_units: maximum number of hidden units in the encoder, at least two per sign. A component with b bits needs
            2^b: two that preserve it, and one per turn of its waves. If there are few, components have fewer bits.
    """
    levels = [2**b for b in range(MAX_BITS + 1)]
    allocation, error = allocate_bits(coefficients, variances, channels, levels, hidden_units)
    coded = code_components(coefficients, allocation)

    hidden = torch.cat([_hidden_units(component, coefficients.shape[1]) for component in coded])
    output = _output_weights(coded, channels)

    def target(c: Tensor) -> Tensor:
        units = F.silu(c.double() @ hidden[:, : c.shape[-1]].T + hidden[:, -1])
        return (units @ output[:, :-1].T + output[:, -1]).to(c.dtype)

    count = max(component.index for component in coded) + 1
    readout = _readout(coded, channels, coefficients)
    return StartCode(hidden.to(coefficients.dtype), target, count, output, readout, error)


def code_components(coefficients: Tensor, allocation: Sequence[int]) -> list[CodedComponent]:
    """Return the cells of each component that has bits. Channels are given out in the order of the components."""
    coded: list[CodedComponent] = []
    first = 0
    for index, bits in enumerate(allocation):
        if bits:
            levels, _ = lloyd_max(histograms([coefficients[:, index : index + 1]]), 2**bits)
            coded.append(CodedComponent(index, first, (levels[0, 1:] + levels[0, :-1]) / 2))
            first += bits
    return coded


def _hidden_units(component: CodedComponent, total: int) -> Tensor:
    """Return the hidden units (U, K + 1) of a component: +c, -c, and a ramp that begins at each turn."""
    rows = component.edges.new_zeros(2**component.bits, total + 1)
    rows[:, component.index], rows[:, -1] = _ramps(component)
    return rows


def _ramps(component: CodedComponent) -> tuple[Tensor, Tensor]:
    """Return the slopes and the offsets (2^b,) of the hidden units of a component."""
    turns, slopes = component.turns(), _SHARPNESS / component.edges.diff()
    pair = torch.tensor([1.0, -1.0], dtype=slopes.dtype, device=slopes.device)
    return torch.cat([pair, slopes]), torch.cat([0 * pair, -slopes * turns])


def _output_weights(coded: Sequence[CodedComponent], channels: int) -> Tensor:
    """Return the weights (Z, U + 1) and the biases that make waves from the hidden units.

    They are fitted near the edges of the cells alone: SiLU is not a ramp near the turns, where only the sign of a wave
    counts, and a wave must not move there. Where the number of a cell changes in several bits, all of them must change at
    the same coefficient: an error of 1% of a cell costs as much as the quantizer itself.
    """
    units = sum(2**component.bits for component in coded)
    weights = coded[0].edges.new_zeros(channels, units + 1)
    first = 0
    for component in coded:
        edges = component.edges
        widths = edges.diff() if len(edges) > 1 else torch.ones_like(edges)
        radius = _NEAR * torch.minimum(torch.cat([widths, widths[-1:]]), torch.cat([widths[:1], widths]))[: len(edges)]
        c = torch.cat([edges - radius, edges, edges + radius])
        slopes, offsets = _ramps(component)
        features = torch.cat([F.silu(c[:, None] * slopes + offsets), torch.ones_like(c[:, None])], dim=1)
        weight = torch.ones_like(c)
        weight[len(edges) : 2 * len(edges)] = _EDGE_WEIGHT
        solution = torch.linalg.pinv(features * weight[:, None], rtol=1e-14) @ (component.waves(c) * weight[:, None])
        rows = slice(component.first, component.first + component.bits)
        weights[rows, first : first + len(slopes)] = solution[:-1].T
        weights[rows, -1] = solution[-1]
        first += len(slopes)
    return weights


def _readout(coded: Sequence[CodedComponent], channels: int, like: Tensor) -> Readout:
    """Return the numbers of the cells, with mean 0 and variance 1 over all numbers."""
    matrix = like.new_zeros(len(coded), channels)
    values = []
    for row, component in enumerate(coded):
        cells = 2**component.bits
        scale = ((cells**2 - 1) / 3) ** -0.5
        places = 2 ** torch.arange(component.bits - 1, -1, -1, device=like.device)
        matrix[row, component.first : component.first + component.bits] = scale * places
        values.append((2 * torch.arange(cells, device=like.device) - (cells - 1)) * scale)
    return Readout(matrix, tuple(values))


def _triangle_wave(c: Tensor, zeros: Tensor, turns: Tensor) -> Tensor:
    """Return a continuous function that is linear between turns, with a zero between each pair of them.

    Args:
        c: values.
        zeros: (E,) ascending zeros.
        turns: points at which the slope may change its sign, at least one between each pair of zeros. Those are used for
            which the slopes stay closest to 1 and -1.
    """
    slopes, used = [zeros.new_ones(())], []
    for left, right in itertools.pairwise(zeros):
        inner = turns[(turns > left) & (turns < right)]
        candidates = -slopes[-1] * (inner - left) / (right - inner)
        best = int(candidates.abs().log().abs().argmin())
        slopes.append(candidates[best])
        used.append(inner[best])
    index = torch.bucketize(c.contiguous(), torch.stack(used).to(c)) if used else torch.zeros_like(c, dtype=torch.long)
    return (c - zeros.to(c)[index]) * torch.stack(slopes).to(c)[index]
