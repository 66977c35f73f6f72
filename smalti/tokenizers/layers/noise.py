"""Gaussian noise that is the same for every chunk size and, with a generator on the CPU, on every device.

Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

Draw = Callable[[tuple[int, ...]], Tensor]
"""Returns standard normal noise of a shape."""

_replacement: ContextVar[Draw | None] = ContextVar("replacement", default=None)


@contextmanager
def replace_noise(draw: Draw) -> Iterator[None]:
    """Take noise from a function instead of a generator: an exported program receives its noise as inputs.

    Args:
        draw: called in the order in which a decoder draws noise; once for all frames of `randn_per_frame`.
    """
    token = _replacement.set(draw)
    try:
        yield
    finally:
        _replacement.reset(token)


def generator_device(x: Tensor, generator: torch.Generator | None) -> torch.device:
    """Return the device to draw noise for x on.

    This is the generator's device: a generator on the CPU gives the same noise for tensors on any device. Without a
    generator it is x's device.
    """
    return x.device if generator is None else generator.device


def randn(x: Tensor, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Draw standard normal noise in float32 and convert it to x's dtype and device."""
    if (draw := _replacement.get()) is not None:
        return draw(shape).to(x)
    return torch.randn(shape, generator=generator, device=generator_device(x, generator), dtype=torch.float32).to(x)


def randn_per_frame(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard normal noise of x's shape (B, C, T, H, W), frame by frame.

    With one generator, the chunks of a clip get the same noise as the whole clip.
    """
    batch, channels, frames, *size = x.shape
    if (draw := _replacement.get()) is not None:  # the number of frames of an exported program is not known
        return draw(tuple(x.shape)).to(x)
    return torch.stack([randn(x, (batch, channels, *size), generator) for _ in range(frames)], dim=2)
