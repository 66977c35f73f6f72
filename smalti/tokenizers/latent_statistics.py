"""A decoder as the last step of denoising: what tells its layers how noisy the latent is, and noise of their own.

LTX-Video (arXiv 2501.00103, section 2.3 and appendix). Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentStatistics(nn.Module):
    """Mean and standard deviation of each channel of a latent over a data set; 0 and 1 until they are measured.

    They are stored with the tokenizer: noise is mixed in by them, and a generative model of the latents wants those
    normalized.

    Args:
        dim: channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def normalized(self, z: Tensor) -> Tensor:
        """(B, C, t, h, w) with mean 0 and standard deviation 1 in each channel."""
        return (z - self._along(self.mean, z)) / self._along(self.std, z)

    def denormalized(self, z: Tensor) -> Tensor:
        """The inverse of `normalized`."""
        return z * self._along(self.std, z) + self._along(self.mean, z)

    @staticmethod
    def _along(values: Tensor, z: Tensor) -> Tensor:
        return values.to(z.dtype)[:, None, None, None]
