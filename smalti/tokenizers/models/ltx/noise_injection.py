"""A decoder as the last step of denoising: what tells its layers how noisy the latent is, and noise of their own.

LTX-Video (arXiv 2501.00103, section 2.3 and appendix). Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NoiseInjection(nn.Module):
    """Adds one map of noise, the same for all channels and frames, times a learned strength of each channel, at first 0.

    Args:
        channels: C.
        factor: rows and columns at this layer that one of the latent became.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """(B, C, T, H, W) and (H, W) to the first's shape."""
        return x + (self.scale * noise).unsqueeze(1).to(x.dtype)
