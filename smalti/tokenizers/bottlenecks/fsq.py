"""Finite scalar quantization."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Quantizer, straight_through
from smalti.tokenizers.linear_start.code import StartCode, linear_units
from smalti.types import Code

_MAX_LEVELS = 2**16
"""Maximum number of levels: near -1 and 1, tanh in float32 cannot resolve more."""


class FSQ(Quantizer):
    """Finite scalar quantization (arXiv 2309.15505, section 3 and appendix A.1): rounds every channel to a few levels.

    The codebook is implicit: all combinations of the levels of a token's channels. There are no losses and no parameters.

    The results equal those of vector-quantize-pytorch's `FSQ`. Its ids are int32, which overflow from 2^31 on, and it
    enumerates the codebook. Here, a codebook of 2^62 codewords costs no memory.

    Channels are token-major: token g has the channels [g L, (g + 1) L), L = len(levels). The first channel of a token is
    the least significant digit of its id. With q_i the rounded channel i,

        id = sum over i of (q_i + levels_i // 2) * (levels_0 ... levels_{i-1})

    Args:
        levels: number of levels of each channel of a token, each in [2, 65536].
        tokens_per_position: tokens G per position. All have the same levels.

    Raises:
        SmaltiError: `levels` is empty or one is out of range, `tokens_per_position` is below 1, or the ids do not fit into
            64 bits.
    """

    def __init__(self, levels: list[int], tokens_per_position: int = 1) -> None:
        super().__init__()
        if not levels or not all(2 <= level <= _MAX_LEVELS for level in levels):
            raise SmaltiError(f"FSQ needs one or more levels, each from 2 to {_MAX_LEVELS}, not {list(levels)}.")
        if tokens_per_position < 1:
            raise SmaltiError(f"FSQ needs at least one token per position, not {tokens_per_position}.")
        self.levels = list(levels)
        self.tokens_per_position = tokens_per_position
        self.codebook_size = math.prod(levels)
        if self.codebook_size > 2**63 - 1:
            raise SmaltiError(
                f"FSQ's levels {self.levels} make {self.codebook_size} codewords, too many for 64-bit ids: use fewer "
                "channels per token and increase tokens_per_position."
            )
        self.in_dim = self.out_dim = len(levels) * tokens_per_position

    def quantize(self, h: Tensor) -> Code:
        """Map (B, N, G L) to z of the same shape, multiples of 1 / (level // 2) in [-1, 1], and ids (B, N, G)."""
        levels = torch.tensor(self.levels, dtype=h.dtype, device=h.device)
        half_width = levels.div(2, rounding_mode="floor")
        bounded = self._bound(h.unflatten(-1, (self.tokens_per_position, -1)), levels)
        # The bound exceeds the last level by (levels - 1) * 5e-4, which would round up from 1001 levels on.
        rounded = bounded.detach().round().clamp(-half_width, levels - 1 - half_width)
        x = bounded / half_width
        z = self.soften(x, straight_through(x, rounded / half_width))
        ids = ((rounded + half_width).long() * self._place_values(h.device)).sum(dim=-1)
        return Code(z.flatten(-2), ids)

    def decision_margin(self, h: Tensor) -> Tensor:
        """Return the smallest distance of the bounded channels of each token to the middle of two levels, (B, N, G)."""
        h = h.float()
        levels = torch.tensor(self.levels, dtype=h.dtype, device=h.device)
        bounded = self._bound(h.unflatten(-1, (self.tokens_per_position, -1)), levels)
        return (0.5 - (bounded - bounded.round()).abs()).amin(dim=-1)

    def dequantize(self, ids: Tensor) -> Tensor:
        """Map ids (B, N, G) to their codewords (B, N, G L)."""
        levels = torch.tensor(self.levels, device=ids.device)
        half_width = levels // 2
        digits = ids.unsqueeze(-1) // self._place_values(ids.device) % levels
        return ((digits - half_width).float() / half_width.float()).flatten(-2)

    def linear_start(self, coefficients: Tensor, variances: Tensor, hidden_units: int) -> StartCode:
        """Return one component per channel: the component with the largest variance gets the most levels.

        Each coefficient is scaled so that its codewords correlate best with it. The shift of an even number of levels is
        subtracted, because it would move the cells away from the mean.
        """
        count = min(coefficients.shape[1], self.in_dim)
        levels = torch.tensor(self.levels, dtype=coefficients.dtype, device=coefficients.device)
        shift = self._shift(levels).repeat(self.tokens_per_position)
        channels = levels.repeat(self.tokens_per_position).argsort(descending=True, stable=True)[:count]
        gains = self._best_gains(coefficients[:, :count], channels, shift)

        def target(c: Tensor) -> Tensor:
            h = c.new_zeros(*c.shape[:-1], self.in_dim)
            h[..., channels] = c[..., :count] * gains
            return h - shift

        return StartCode(linear_units(count, coefficients.shape[1]), target, count)

    def _best_gains(self, coefficients: Tensor, channels: Tensor, shift: Tensor) -> Tensor:
        """Return the scale (K,) of each coefficient (N, K) at which its codewords correlate best with it."""
        grid = torch.linspace(0.2, 1.6, 29, dtype=coefficients.dtype, device=coefficients.device)
        scores = []
        for gain in grid:
            h = coefficients.new_zeros(1, len(coefficients), self.in_dim)
            h[..., channels] = coefficients * gain
            z = self.quantize(h - shift).z[0, :, channels]
            z = z - z.mean(0)
            scores.append((z * coefficients).sum(0) / z.norm(dim=0).clamp_min(1e-9))
        return grid[torch.stack(scores).argmax(0)]

    def _shift(self, levels: Tensor) -> Tensor:
        """Return the shift before tanh, by which an even number of levels becomes symmetric after rounding."""
        half = (levels - 1) * (1 + 1e-3) / 2
        return torch.atanh(0.5 * (levels % 2 == 0) / half)

    def _bound(self, x: Tensor, levels: Tensor) -> Tensor:
        """Bound x (..., L) to an interval that rounds to `levels` integers, shifted by half if `levels` is even."""
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = 0.5 * (levels % 2 == 0)
        return torch.tanh(x + self._shift(levels)) * half - offset

    def _place_values(self, device: torch.device) -> Tensor:
        """Return the place value of each channel in an id, (L,) int64."""
        return torch.tensor([math.prod(self.levels[:i]) for i in range(len(self.levels))], device=device)
