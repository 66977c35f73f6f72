"""Injection of noise into the features of the decoder (LTX-Video, arXiv 2501.00103, appendix)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NoiseInjection(nn.Module):
    """Adds spatial noise, scaled by a learned factor per channel (initially 0). All samples and frames share the noise.

    Args:
        channels: number of channels C.
        factor: height and width of the features relative to the latent.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Add noise (H, W) to x (B, C, T, H, W)."""
        return x + (self.scale * noise).unsqueeze(1).to(x.dtype)
