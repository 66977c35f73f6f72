"""Conditioning on a timestep (LTX-Video, arXiv 2501.00103, section 2.3). Shapes: B batch, C channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING_DIM = 256
"""Channels of the sinusoidal embedding: cosines and sines of 128 frequencies."""


def sinusoidal_embedding(timesteps: Tensor) -> Tensor:
    """Embed timesteps as sinusoids with frequencies from 1 to 1/10000 (arXiv 1706.03762, section 3.5).

    Args:
        timesteps: (B,), in [0, 1000] for the published models.

    Returns:
        (B, 256): cosines, then sines.
    """
    half = EMBEDDING_DIM // 2
    exponents = torch.arange(half, device=timesteps.device, dtype=timesteps.dtype) / half
    angles = timesteps[:, None] * torch.exp(-math.log(10000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimestepEmbedding(nn.Module):
    """Maps a sinusoidal embedding to a vector with two linear layers and a SiLU. The vector is initially zero.

    Args:
        dim: number of channels of the vector.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(EMBEDDING_DIM, dim)
        self.linear2 = nn.Linear(dim, dim)
        nn.init.zeros_(self.linear2.weight)
        nn.init.zeros_(self.linear2.bias)

    def forward(self, sinusoids: Tensor) -> Tensor:
        """Map (B, 256) to (B, dim)."""
        return self.linear2(F.silu(self.linear1(sinusoids.to(self.linear1.weight.dtype))))


def modulation(table: Tensor, embedding: Tensor) -> list[Tensor]:
    """Return shifts and scales for features: the sum of a learned table and an embedding of the timestep.

    Args:
        table: (n, C) learned values.
        embedding: (B, n C) from `TimestepEmbedding`.

    Returns:
        n tensors (B, C, 1, 1, 1).
    """
    values = table + embedding.unflatten(1, table.shape)
    return list(values[..., None, None, None].unbind(1))
