"""Sign vectors that represent principal components: the start of lookup-free quantizers.

A component with b bits is cut into 2^b cells, whose boundaries minimize the squared error (Lloyd-Max). The bits are the Gray
code of the cell: neighboring cells differ in one bit, so that a small error of the encoder costs little. The encoder computes
each bit as the sign of a triangle wave, and the decoder inverts the code by the parities of its leading bits.

Shapes: N positions; K coefficients; U, V hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.tokenizers.linear_start.code import Decoding, StartCode, ramp_units
from smalti.tokenizers.linear_start.scalar_quantizers import histograms, lloyd_max

MAX_BITS = 5
"""Maximum bits per component. The triangle waves of more bits need many hidden units and are steep."""

_SHARPNESS = 6.0
"""Scale of the hidden units in units of a cell's width: at this distance from its kink, SiLU is a ramp up to 2%."""


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
        return (len(self.edges) + 1).bit_length() - 1

    def number(self, bits: Tensor) -> Tensor:
        """Return the number of the cell (...) of sign vectors (..., Z), on a scale from -1 to 1."""
        gray = bits[..., self.first : self.first + self.bits].long()
        # The first wave increases with the coefficient, and the wave of each later bit decreases where it is first positive.
        binary = gray.cumsum(-1) % 2
        places = 2 ** torch.arange(self.bits - 1, -1, -1, device=bits.device)
        return (binary * places).sum(-1).to(self.edges.dtype) * (2 / len(self.edges)) - 1

    def kinks(self) -> Tensor:
        """Return where the triangle waves turn: every second boundary."""
        return self.edges[1::2]

    def waves(self, c: Tensor) -> Tensor:
        """Return triangle waves (..., b) of coefficients (...). Their signs are the bits of the Gray code."""
        cells = len(self.edges) + 1
        waves = []
        for bit in range(self.bits):
            period = cells >> (bit + 1)  # the bit changes at odd multiples of the period, its wave turns at even ones
            zeros, turns = self.edges[period - 1 :: 2 * period], self.edges[2 * period - 1 :: 2 * period]
            waves.append(_triangle_wave(c, zeros, turns))
        return torch.stack(waves, dim=-1)


def allocate_bits(
    coefficients: Tensor, variances: Tensor, bits: int, encoder_units: int, max_bits: int = MAX_BITS
) -> list[int]:
    """Distribute bits over components so that the squared error is least, with a limit on the encoder's hidden units.

    Args:
        coefficients: (N, K) with variance 1.
        variances: (K,) of the components.
        bits: number of bits to distribute.
        encoder_units: maximum number of hidden units.
        max_bits: maximum per component.
    """
    frequencies = histograms([coefficients])
    errors = torch.stack([lloyd_max(frequencies, 2**b)[1] * variances for b in range(max_bits + 1)]).tolist()
    chosen = [0] * coefficients.shape[1]
    for _ in range(bits):
        gains = {
            k: errors[b][k] - errors[b + 1][k]
            for k, b in enumerate(chosen)
            if b < max_bits and sum(map(_count_units, chosen)) + _count_units(b + 1) - _count_units(b) <= encoder_units
        }
        if not gains:
            break
        chosen[max(gains, key=lambda k: gains[k])] += 1
    return chosen


def code_components(coefficients: Tensor, allocation: Sequence[int]) -> list[CodedComponent]:
    """Return the cells of each component that has bits. Channels are given out in the order of the components."""
    coded: list[CodedComponent] = []
    first = 0
    for index, bits in enumerate(allocation):
        if bits:
            values, _ = lloyd_max(histograms([coefficients[:, index : index + 1]]), 2**bits)
            edges = ((values[0, 1:] + values[0, :-1]) / 2).to(coefficients.dtype)
            coded.append(CodedComponent(index, first, edges))
            first += bits
    return coded


def gray_start(
    coefficients: Tensor, variances: Tensor, channels: int, scale: float, encoder_units: int, decoder_units: int
) -> StartCode:
    """Return how sign vectors represent principal components.

    Args:
        coefficients: (N, K) with variance 1, by decreasing variance of the component.
        variances: (K,) of the components.
        channels: number of signs per position.
        scale: magnitude of the signs.
        encoder_units: maximum number of hidden units in the encoder.
        decoder_units: maximum number of hidden units in the decoder.
    """
    allocation = allocate_bits(coefficients, variances, channels, encoder_units)
    coded = code_components(coefficients, allocation)

    def target(c: Tensor) -> Tensor:
        waves = [component.waves(c[..., component.index]) for component in coded]
        used = torch.cat(waves, dim=-1)
        return torch.cat([used, used.new_zeros(*used.shape[:-1], channels - used.shape[-1])], dim=-1)

    def number(z: Tensor) -> Tensor:
        return torch.stack([component.number(z > 0) for component in coded], dim=-1)

    # Components with bits come first, because those with less variance get no more bits.
    hidden = torch.cat([_encoder_units(component, coefficients.shape[1]) for component in coded])
    decoding = Decoding(
        _parity_units(coded, channels, scale, decoder_units),
        number,
        ramp_units([len(component.edges) + 1 for component in coded]),
    )
    return StartCode(hidden, target, len(coded), decoding)


def _count_units(bits: int) -> int:
    """Return the number of the encoder's hidden units for a component: two that preserve it, and one per kink."""
    return 0 if not bits else 2 + max(0, 2 ** (bits - 1) - 1)


def _encoder_units(component: CodedComponent, total: int) -> Tensor:
    """Return the hidden units (U, K + 1) of a component: +c, -c, and a ramp that begins at each kink."""
    kinks = component.kinks()
    rows = torch.zeros(2 + len(kinks), total + 1, dtype=kinks.dtype, device=kinks.device)
    rows[0, component.index], rows[1, component.index] = 1.0, -1.0
    if len(kinks):
        width = component.edges.diff()
        slopes = _SHARPNESS / torch.minimum(width[0::2], width[1::2])
        rows[2:, component.index], rows[2:, -1] = slopes, -slopes * kinks
    return rows


def _parity_units(coded: Sequence[CodedComponent], channels: int, scale: float, limit: int) -> Tensor:
    """Return affine functions (V, channels + 1) of signs from which SiLU and a linear map compute the components.

    With b_0 ... b_m in {-1, 1} and S = b_0 + ... + b_m, their parity is a function of S, which is linear between its m + 2
    values: one ramp between each pair of neighbors suffices. Components that exceed the limit get their signs unchanged.
    """
    rows: list[Tensor] = []
    remaining = limit - sum(component.bits for component in coded)
    for component in coded:
        first, bits = component.first, component.bits
        identity = torch.eye(channels, channels + 1)[first : first + bits] / scale
        units = [2 * identity[:1], -2 * identity[:1]]
        for m in range(1, bits):
            total = 2 * identity[: m + 1].sum(0, keepdim=True).repeat(m + 1, 1)
            total[:, -1] = 2 * (m - 2 * torch.arange(m + 1, dtype=total.dtype))
            units.append(total)
        extra = sum(map(len, units)) - bits
        fits = extra <= remaining
        rows += units if fits else [identity]
        remaining -= extra if fits else 0
    return torch.cat(rows) if rows else torch.zeros(0, channels + 1)


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
