"""Finite scalar quantization: every channel is rounded to a few levels, and the codebook is their product."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Quantizer, straight_through
from smalti.types import Code

# float32 tanh cannot tell more levels apart near its ends.
_MOST_LEVELS = 2**16


class FSQ(Quantizer):
    """Finite scalar quantization (arXiv 2309.15505, section 3 and appendix A.1), with no losses and no parameters.

    Equal to vector-quantize-pytorch's `FSQ`. Ours stands because that one packs indices into int32, which overflow from
    2^31 on, and enumerates the codebook; here a book of 2^62 costs nothing.

    Channels are token-major: token g takes channels [g L, (g + 1) L), L = len(levels). The first channel of a token counts
    lowest: id = sum over channels i of (code_i + levels_i // 2) * (levels_0 ... levels_{i-1}).

    Args:
        levels: levels of each channel of a token, each in [2, 65536].
        tokens_per_position: tokens G a position; all share one implicit codebook.

    Raises:
        SmaltiError: no levels, a level out of range, no tokens, or a codebook whose ids int64 cannot hold.
    """

    def __init__(self, levels: list[int], tokens_per_position: int = 1) -> None:
        super().__init__()
        if not levels or not all(2 <= level <= _MOST_LEVELS for level in levels):
            raise SmaltiError(f"FSQ takes one or more levels, each from 2 to {_MOST_LEVELS}, not {list(levels)}.")
        if tokens_per_position < 1:
            raise SmaltiError(f"FSQ needs at least one token a position, not {tokens_per_position}.")
        self.levels = list(levels)
        self.tokens_per_position = tokens_per_position
        self.codebook_size = math.prod(levels)
        if self.codebook_size > 2**63 - 1:
            raise SmaltiError(
                f"FSQ's levels {self.levels} make {self.codebook_size} codes, more than a 64-bit id can tell apart: "
                "give it fewer channels a token and several tokens_per_position."
            )
        self.in_dim = self.out_dim = len(levels) * tokens_per_position

    def quantize(self, h: Tensor) -> Code:
        """(B, N, G L) to z of the same shape, a multiple of 1 / (level // 2) in [-1, 1], and ids (B, N, G)."""
        levels = torch.tensor(self.levels, dtype=h.dtype, device=h.device)
        half_width = levels.div(2, rounding_mode="floor")
        bounded = self._bound(h.unflatten(-1, (self.tokens_per_position, -1)), levels)
        # The bound reaches (levels - 1) * 5e-4 past the last level, half a level and more from 1001 levels on.
        codes = bounded.detach().round().clamp(-half_width, levels - 1 - half_width)
        z = straight_through(bounded / half_width, codes / half_width)
        ids = ((codes + half_width).long() * self._basis(h.device)).sum(dim=-1)
        return Code(z.flatten(-2), ids)

    def dequantize(self, ids: Tensor) -> Tensor:
        """(B, N, G) to (B, N, G L)."""
        levels = torch.tensor(self.levels, device=ids.device)
        half_width = levels // 2
        digits = ids.unsqueeze(-1) // self._basis(ids.device) % levels
        return ((digits - half_width).float() / half_width.float()).flatten(-2)

    def _bound(self, x: Tensor, levels: Tensor) -> Tensor:
        """Squash x (..., L) so that rounding gives `levels` values, shifted by half a level where they are even."""
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = 0.5 * (levels % 2 == 0)
        shift = torch.atanh(offset / half)
        return torch.tanh(x + shift) * half - offset

    def _basis(self, device: torch.device) -> Tensor:
        """(L,) int64: what a step of each channel adds to the id."""
        return torch.tensor([math.prod(self.levels[:i]) for i in range(len(self.levels))], device=device)
