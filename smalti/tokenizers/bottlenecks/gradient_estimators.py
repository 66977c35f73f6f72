"""Gradients through a quantizer, whose own derivative is zero almost everywhere.

All functions return exactly the values of the codewords. Shapes: (..., C), where the last axis is a token's vector.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

GradientEstimator = Literal["straight_through", "clipped", "rotation"]
"""How the gradient of a codeword becomes the gradient of the vector that was quantized, see `estimate_gradient`."""


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """Return exactly the value of `quantized`, with the gradient of x.

    The sum with a detached difference avoids x + (q - x), which can differ from q by a rounding error.
    """
    return quantized.detach() + (x - x.detach())


def estimate_gradient(x: Tensor, codewords: Tensor, estimator: GradientEstimator, limit: float) -> Tensor:
    """Return the codewords, with an estimated gradient for x.

    Args:
        x: (..., C) vectors.
        codewords: (..., C) their codewords.
        estimator: "straight_through": the gradient of the codeword (arXiv 1308.3432). "clipped": the same where x is in
            [-limit, limit], and zero elsewhere, so that no channel moves further from its threshold (arXiv 1602.02830,
            eq. 4). "rotation": the gradient is rotated and scaled like x to its codeword, both treated as constant
            (arXiv 2410.06424, section 4).
        limit: see "clipped": the magnitude of a channel of a codeword.
    """
    if estimator == "clipped":
        return straight_through(x.clamp(-limit, limit), codewords)
    if estimator == "rotation":
        return straight_through(_rotate(x, codewords.detach()), codewords)
    return straight_through(x, codewords)


def _rotate(x: Tensor, codewords: Tensor) -> Tensor:
    """Apply the rotation and the scale that map x to its codeword, as constants. The value is that of the codeword."""
    constant = x.detach()
    e, q = F.normalize(constant, dim=-1), F.normalize(codewords, dim=-1)
    r = F.normalize(e + q, dim=-1)
    scale = codewords.norm(dim=-1, keepdim=True) / constant.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    rotated = x - 2 * (x * r).sum(-1, keepdim=True) * r + 2 * (x * e).sum(-1, keepdim=True) * q
    return scale * rotated
