"""Drawing noise, where a seed decides it.

Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def generator_device(x: Tensor, generator: torch.Generator | None) -> torch.device:
    """Where noise for x is drawn: on the generator's device, so that one seed gives the same on a CPU and on a GPU."""
    return x.device if generator is None else generator.device


def randn(x: Tensor, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers of a shape, drawn in float32, of x's dtype and device."""
    return torch.randn(shape, generator=generator, device=generator_device(x, generator), dtype=torch.float32).to(x)


def randn_per_frame(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers like (B, C, T, H, W), drawn frame by frame: a clip in chunks gets those of the whole clip."""
    batch, channels, frames, *size = x.shape
    return torch.stack([randn(x, (batch, channels, *size), generator) for _ in range(frames)], dim=2)
