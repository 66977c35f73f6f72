"""Sign vectors that compare principal components with thresholds: a start for encoders that are linear.

A component with b bits is cut into the b + 1 cells of a Lloyd-Max quantizer, and each bit says on which side of a boundary
the component lies. As many cells need more bits than their binary numbers (`binary_code`) do. But the bits are signs of
affine functions of the components, which every encoder can compute and train, and any values of the cells are a linear
function of the bits.

Shapes: N positions; K coefficients; Z signs per position.
"""

from __future__ import annotations

from torch import Tensor

from smalti.tokenizers.bottlenecks.bit_allocation import allocate_bits
from smalti.tokenizers.linear_start.code import StartCode, linear_units
from smalti.tokenizers.linear_start.scalar_quantizers import histograms, lloyd_max

MAX_BITS = 15
"""Maximum number of bits per component."""


def thermometer_start(coefficients: Tensor, variances: Tensor, channels: int) -> StartCode:
    """Return how sign vectors represent principal components.

    Args:
        coefficients: (N, K) with variance 1, by decreasing variance of the component.
        variances: (K,) of the components.
        channels: number of signs per position.
    """
    allocation, error = allocate_bits(coefficients, variances, channels, range(1, MAX_BITS + 2))
    indices, gains, thresholds = [], [], []
    for index, bits in enumerate(allocation):
        if bits:
            (levels,), _ = lloyd_max(histograms([coefficients[:, index : index + 1]]), bits + 1)
            indices += [index] * bits
            # Inputs of 1 are one cell away from the boundary: clipped gradients reach the two nearest bits.
            gains += [bits / max(1e-6, float(levels[-1] - levels[0]))] * bits
            thresholds += ((levels[1:] + levels[:-1]) / 2).tolist()
    gain, threshold = coefficients.new_tensor(gains), coefficients.new_tensor(thresholds)

    def target(c: Tensor) -> Tensor:
        h = c.new_zeros(*c.shape[:-1], channels)
        h[..., : len(indices)] = (c[..., indices] - threshold.to(c)) * gain.to(c)
        return h

    count = max(indices) + 1
    return StartCode(linear_units(count, coefficients.shape[1]), target, count, lost=error)
