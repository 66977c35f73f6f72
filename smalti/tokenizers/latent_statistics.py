"""Mean and standard deviation of each latent channel.

Shapes: B batch; C channels; t, h, w latent positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentStatistics(nn.Module):
    """Mean and standard deviation of each latent channel over a dataset, stored as buffers.

    A denoising decoder scales its noise by them (LTX-Video, arXiv 2501.00103), and generative models are trained on
    normalized latents. Until they are measured, the mean is 0 and the standard deviation 1.

    Args:
        dim: number of channels C.

    Attributes:
        mean: (C,) mean of each channel.
        std: (C,) standard deviation of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    @property
    def measured(self) -> bool:
        """Whether the statistics were measured: they no longer have the values of a new module."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    def normalize(self, z: Tensor) -> Tensor:
        """Normalize each channel of latents (B, C, t, h, w) to mean 0 and standard deviation 1."""
        return (z - self._broadcast(self.mean, z)) / self._broadcast(self.std, z)

    def denormalize(self, z: Tensor) -> Tensor:
        """Invert `normalize`."""
        return z * self._broadcast(self.std, z) + self._broadcast(self.mean, z)

    @staticmethod
    def _broadcast(values: Tensor, z: Tensor) -> Tensor:
        """Reshape (C,) to broadcast with z, in z's dtype."""
        return values.to(z.dtype)[:, None, None, None]
