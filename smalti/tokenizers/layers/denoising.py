"""A decoder as the last step of denoising: what tells its layers how noisy the latent is, and noise of their own.

LTX-Video (arXiv 2501.00103, section 2.3 and appendix). Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.codec import State

SINUSOIDS = 256
"""Numbers that describe a time: cosines and sines of 128 frequencies."""


@dataclass(frozen=True, eq=False)
class Pass:
    """What all layers of a decoder share while one chunk goes through.

    Attributes:
        state: of the stream.
        time: (B, 256) sinusoids of the times; None: the decoder knows none.
        noise: the (H, W) map of each layer that adds noise, one for all frames and samples of a clip.
    """

    state: State
    time: Tensor | None = None
    noise: Mapping[nn.Module, Tensor] = field(default_factory=dict)


def sinusoids(times: Tensor) -> Tensor:
    """Times (B,) to (B, 256): cosines, then sines, of frequencies from 1 to 1/10000 (arXiv 1706.03762, section 3.5)."""
    half = SINUSOIDS // 2
    exponents = torch.arange(half, device=times.device, dtype=times.dtype) / half
    angles = times[:, None] * torch.exp(-math.log(10000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoids of a time to a vector, by two linear layers with a swish between them. Fresh, it gives zeros.

    Args:
        dim: numbers of the vector.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(SINUSOIDS, dim)
        self.linear2 = nn.Linear(dim, dim)
        nn.init.zeros_(self.linear2.weight)
        nn.init.zeros_(self.linear2.bias)

    def forward(self, time: Tensor) -> Tensor:
        """(B, 256) to (B, dim)."""
        return self.linear2(F.silu(self.linear1(time.to(self.linear1.weight.dtype))))


def modulations(table: Tensor, embedding: Tensor) -> list[Tensor]:
    """A learned table (n, C), moved by the time's embedding (B, n C), as n tensors (B, C, 1, 1, 1)."""
    moved = table + embedding.unflatten(1, table.shape)
    return list(moved[..., None, None, None].unbind(1))


class InjectedNoise(nn.Module):
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
