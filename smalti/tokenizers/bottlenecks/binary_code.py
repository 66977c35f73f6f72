"""Sign vectors that represent principal components: the start of lookup-free quantizers.

A component with b bits is cut into 2^b cells of equal width. The bits are the binary number of the cell, so that a decoder
restores the component by a linear map. An encoder computes each bit as the sign of a triangle wave of the component.

Shapes: N positions; K coefficients; U hidden units; Z signs per position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.scalar_quantizers import histograms, uniform_steps

MAX_BITS = 5
"""Maximum number of bits per component. The triangle waves of more bits need many hidden units and are steep."""

_SHARPNESS = 16.0
"""Scale of the hidden units in units of a cell's width, so that SiLU is nearly a ramp at the next zero of a wave."""


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
            zeros = self.edges[period - 1 :: period]
            # The middle between two zeros is a boundary. Alternate between the cells around it, so that slopes stay equal.
            cells = [i * period + period // 2 - (i % 2 if period > 1 else 0) for i in range(1, len(zeros))]
            turns = self.turns()[[cell - 1 for cell in cells]]
            waves.append(_triangle_wave(c, zeros, turns))
        return torch.stack(waves, dim=-1)


def binary_start(coefficients: Tensor, variances: Tensor, channels: int, hidden_units: int) -> StartCode:
    """Return how sign vectors represent principal components.

    Args:
        coefficients: (N, K) with variance 1, by decreasing variance of the component.
        variances: (K,) of the components.
        channels: number of signs per position.
        hidden_units: maximum number of hidden units in the encoder. If it is small, components have fewer bits.
    """
    allocation = allocate_bits(coefficients, variances, channels, hidden_units)
    coded = code_components(coefficients, allocation)

    def target(c: Tensor) -> Tensor:
        used = torch.cat([component.waves(c[..., component.index]) for component in coded], dim=-1)
        return torch.cat([used, used.new_zeros(*used.shape[:-1], channels - used.shape[-1])], dim=-1)

    hidden = torch.cat([_hidden_units(component, coefficients.shape[1]) for component in coded])
    return StartCode(hidden, target, max(component.index for component in coded) + 1)


def allocate_bits(
    coefficients: Tensor, variances: Tensor, bits: int, hidden_units: int, max_bits: int = MAX_BITS
) -> list[int]:
    """Distribute bits over components so that the squared error is least, with a limit on the encoder's hidden units.

    Args:
        coefficients: (N, K) with variance 1.
        variances: (K,) of the components.
        bits: number of bits to distribute.
        hidden_units: maximum number of hidden units. If it is below two per bit, all components have one bit.
        max_bits: maximum per component.

    Returns:
        The number of bits of each component.
    """
    frequencies = histograms([coefficients])
    errors = [
        variances.tolist(),
        *((uniform_steps(frequencies, 2**b)[1] * variances).tolist() for b in range(1, max_bits + 1)),
    ]
    chosen, units = [0] * coefficients.shape[1], 0
    for remaining in range(bits, 0, -1):
        available = hidden_units - units - 2 * (remaining - 1)  # the least that the remaining bits need
        gains = {
            k: errors[b][k] - errors[b + 1][k]
            for k, b in enumerate(chosen)
            if b < max_bits and (b == 0 or _count_units(b + 1) - _count_units(b) <= available)
        }
        if not gains:
            break
        best = max(gains, key=lambda k: gains[k])
        units += _count_units(chosen[best] + 1) - _count_units(chosen[best])
        chosen[best] += 1
    return chosen


def code_components(coefficients: Tensor, allocation: Sequence[int]) -> list[CodedComponent]:
    """Return the cells of each component that has bits. Channels are given out in the order of the components."""
    coded: list[CodedComponent] = []
    first = 0
    for index, bits in enumerate(allocation):
        if bits:
            step, _ = uniform_steps(histograms([coefficients[:, index : index + 1]]), 2**bits)
            edges = (torch.arange(1, 2**bits, device=step.device) - 2 ** (bits - 1)) * step
            edges = edges.to(coefficients.dtype)
            coded.append(CodedComponent(index, first, edges))
            first += bits
    return coded


def _count_units(bits: int) -> int:
    """Return the number of the encoder's hidden units for a component: two that preserve it, and one per turn."""
    return 2**bits if bits else 0


def _hidden_units(component: CodedComponent, total: int) -> Tensor:
    """Return the hidden units (U, K + 1) of a component: +c, -c, and a ramp that begins at each turn."""
    turns = component.turns()
    rows = torch.zeros(2 + len(turns), total + 1, dtype=turns.dtype, device=turns.device)
    rows[0, component.index], rows[1, component.index] = 1.0, -1.0
    slopes = _SHARPNESS / component.edges.diff()
    rows[2:, component.index], rows[2:, -1] = slopes, -slopes * turns
    return rows


def _triangle_wave(c: Tensor, zeros: Tensor, turns: Tensor) -> Tensor:
    """Return a continuous function that is linear between `turns`, with a zero between each pair of them.

    Args:
        c: values.
        zeros: ascending zeros, one more than turns.
        turns: ascending points at which the sign of the slope changes.
    """
    slopes = [c.new_ones(())]
    for turn, left, right in zip(turns, zeros[:-1], zeros[1:], strict=True):
        slopes.append(-slopes[-1] * (turn - left) / (right - turn).clamp_min(1e-6))
    index = torch.bucketize(c.contiguous(), turns.contiguous())
    return (c - zeros[index]) * torch.stack(slopes)[index]
