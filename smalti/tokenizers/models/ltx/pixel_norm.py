"""Pixel norm, optionally modulated and followed by an activation function."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Divide each position by the root mean square of its channels, without parameters (arXiv 1710.10196, section 4.2).

        y = x / sqrt(mean over channels of x^2 + eps)

    Args:
        x: (B, C, ...).
        eps: added to the mean of squares.
    """
    # Two passes over x: one for the norm, in float32 or better, and one to divide. x.square() would write all squares.
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return x * torch.rsqrt(length.square() / x.shape[1] + eps).to(x.dtype)


def norm_and_activate(x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    """Return SiLU(pixel_norm(x) * (1 + scale) + shift).

    Args:
        x: (B, C, T, H, W).
        shift: (B, C, 1, 1, 1); None for no modulation.
        scale: (B, C, 1, 1, 1); None for no modulation.
    """
    x = pixel_norm(x)
    if shift is not None and scale is not None:
        x = torch.addcmul(shift.to(x.dtype), x, (1 + scale).to(x.dtype))
    # In place unless the backward pass needs the normalized x.
    return F.silu(x, inplace=not (torch.is_grad_enabled() and x.requires_grad))
