"""RMS normalization in OneVAE's networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Normalize each position by the root mean square of its channels (arXiv 1910.07467).

        y = x / max(|x|, 1e-6) * sqrt(C) * gamma

    Unlike a group norm, it uses no other position: chunks of a clip have the same norm as the whole clip.

    Args:
        channels: number of channels C.
        axes: number of axes after the channels: 2 for images, 3 for videos.
    """

    def __init__(self, channels: int, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C, ...), with `axes` axes after C."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-6)
        return x * (x.shape[1] ** 0.5 / length) * self.gamma


def norm_or_identity(channels: int, norm: bool) -> nn.Module:
    """Return an RMSNorm for videos, or the identity if `norm` is False."""
    return RMSNorm(channels) if norm else nn.Identity()
