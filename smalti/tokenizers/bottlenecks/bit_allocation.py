"""Distributing the signs of a codeword over principal components.

Shapes: N positions; K coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from smalti.tokenizers.linear_start.scalar_quantizers import histograms, lloyd_max


def allocate_bits(
    coefficients: Tensor, variances: Tensor, bits: int, levels: Sequence[int], hidden_units: int | None = None
) -> tuple[list[int], float]:
    """Give bits, one after the other, to the component whose squared error decreases most.

    Args:
        coefficients: (N, K) with variance 1.
        variances: (K,) of the components.
        bits: number of bits to distribute. Bits that no component can use remain.
        levels: number of levels of a Lloyd-Max quantizer with 0, 1, 2, ... bits; the last entry is the maximum.
        hidden_units: maximum number of hidden units of the encoder, at least two per bit, if a component needs one per
            level; None: no limit.

    Returns:
        The number of bits of each component, and the share of the variance of all components that the quantizers lose.
    """
    frequencies = histograms([coefficients])
    errors = [variances.tolist(), *((lloyd_max(frequencies, n)[1] * variances).tolist() for n in levels[1:])]
    units = [0, *levels[1:]]
    chosen, used = [0] * coefficients.shape[1], 0
    for remaining in range(bits, 0, -1):
        # The remaining bits need at least two units each.
        available = None if hidden_units is None else hidden_units - used - 2 * (remaining - 1)
        gains = {
            k: errors[b][k] - errors[b + 1][k]
            for k, b in enumerate(chosen)
            if b + 1 < len(levels) and (b == 0 or available is None or units[b + 1] - units[b] <= available)
        }
        if not gains:
            break
        best = max(gains, key=lambda k: gains[k])
        used += units[chosen[best] + 1] - units[chosen[best]]
        chosen[best] += 1
    lost = sum(errors[b][k] for k, b in enumerate(chosen))
    return chosen, lost / max(1e-12, float(variances.sum()))
