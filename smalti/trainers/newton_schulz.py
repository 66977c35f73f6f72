"""Orthogonalization of matrices by Newton-Schulz iteration, the core of Muon."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smalti.hardware import has_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of the quintic, tuned by Keller Jordan: steep at zero; maps singular values to about 0.7 to 1.2."""
MAX_STEPS = 10
_EPSILON = 1e-7
_GRAM_STEPS = 5
"""Steps on one Gram matrix: the rounding error of a zero eigenvalue grows with a^2 in each step, to 1e-2 in five."""
_MAX_STACKED_ELEMENTS = 2**16
"""On a CPU, larger matrices of one shape are faster one after the other (measured with 64 x 576 and 128 x 1152)."""


def orthogonalize(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return U f(S) V^T for matrices U S V^T, where f brings singular values close to 1.

    Each step maps a matrix X, scaled to a Frobenius norm of 1, to a X + (b A + c A^2) X with A = X X^T. In float32, wide
    matrices iterate on the small matrix A alone: Q = a I + b A + c A^2 commutes with A, so that A becomes Q A Q, and X is
    multiplied once with the product of all Q. A 3x3 convolution with as many outputs as inputs then needs 2.7 times fewer
    operations. In bfloat16, A would lose small singular values, and X is updated in each step.

    Source: Keller Jordan, "Muon: An optimizer for hidden layers in neural networks",
    https://kellerjordan.github.io/posts/muon.

    Args:
        matrices: (m, n) or (B, m, n). A zero matrix remains zero.
        steps: number of steps, from 1 to 10.
        dtype: data type of the computation: float32, bfloat16 or, for tests, float64.

    Returns:
        The same shape in `dtype`.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    # The norm is computed in float32: bfloat16 would lose a hundredth of it.
    x = x.to(dtype if dtype == torch.float64 else torch.float32)
    x = (x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPSILON)).to(dtype)
    if dtype != torch.bfloat16 and x.shape[-1] >= 2 * x.shape[-2]:
        while steps > 0:
            x = _gram_product(x, min(steps, _GRAM_STEPS)) @ x
            steps -= _GRAM_STEPS
    else:
        for _ in range(steps):
            x = _step_factor(x @ x.mT) @ x
    return x.mT if tall else x


def _step_factor(gram: Tensor) -> Tensor:
    """Return Q = a I + b A + c A^2 for Gram matrices A."""
    a, b, c = COEFFICIENTS
    multiply = torch.addmm if gram.ndim == 2 else torch.baddbmm
    factor = multiply(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor


def _gram_product(x: Tensor, steps: int) -> Tensor:
    """Return the product of the factors Q of several steps."""
    gram = x @ x.mT
    product = factor = _step_factor(gram)
    for _ in range(steps - 1):
        gram = factor @ gram @ factor
        factor = _step_factor(gram)
        product = factor @ product
    return product


def orthogonalize_all(matrices: Sequence[Tensor], steps: int = 5, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Orthogonalize matrices of any shapes, those of one shape together where this is faster.

    Args:
        matrices: (m, n) each, on one device.
        steps: see `orthogonalize`.
        dtype: see `orthogonalize`.

    Returns:
        The results in order, in `dtype`.
    """
    results: list[Tensor | None] = [None] * len(matrices)
    by_shape: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        by_shape.setdefault(matrix.shape, []).append(index)
    for indices in by_shape.values():
        first = matrices[indices[0]]
        stacked = len(indices) > 1 and (first.device.type != "cpu" or first.numel() <= _MAX_STACKED_ELEMENTS)
        if stacked:
            same = orthogonalize(torch.stack([matrices[index] for index in indices]), steps, dtype).unbind()
        else:
            same = [orthogonalize(matrices[index], steps, dtype) for index in indices]
        for index, result in zip(indices, same, strict=True):
            results[index] = result
    return [result for result in results if result is not None]


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 if the device multiplies such matrices in hardware, else float32.

    Args:
        device: the device of the matrices.
    """
    return torch.bfloat16 if has_bfloat16(device.type) else torch.float32
