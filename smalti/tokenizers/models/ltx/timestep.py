"""A decoder as the last step of denoising: what tells its layers how noisy the latent is, and noise of their own.

LTX-Video (arXiv 2501.00103, section 2.3 and appendix). Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING_DIM = 256
"""Numbers that describe a time: cosines and sines of 128 frequencies."""


def sinusoidal_embedding(times: Tensor) -> Tensor:
    """Times (B,) to (B, 256): cosines, then sines, of frequencies from 1 to 1/10000 (arXiv 1706.03762, section 3.5)."""
    half = EMBEDDING_DIM // 2
    exponents = torch.arange(half, device=times.device, dtype=times.dtype) / half
    angles = times[:, None] * torch.exp(-math.log(10000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimestepEmbedding(nn.Module):
    """Sinusoids of a time to a vector, by two linear layers with a swish between them. Fresh, it gives zeros.

    Args:
        dim: numbers of the vector.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(EMBEDDING_DIM, dim)
        self.linear2 = nn.Linear(dim, dim)
        nn.init.zeros_(self.linear2.weight)
        nn.init.zeros_(self.linear2.bias)

    def forward(self, time: Tensor) -> Tensor:
        """(B, 256) to (B, dim)."""
        return self.linear2(F.silu(self.linear1(time.to(self.linear1.weight.dtype))))


def modulation(table: Tensor, embedding: Tensor) -> list[Tensor]:
    """A learned table (n, C), moved by the time's embedding (B, n C), as n tensors (B, C, 1, 1, 1)."""
    moved = table + embedding.unflatten(1, table.shape)
    return list(moved[..., None, None, None].unbind(1))
