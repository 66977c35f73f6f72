"""Quantizers with a learned codebook, and residual ones: vector-quantize-pytorch behind our promises.

The library's own defaults are kept but for those that are named here, and its options that break a promise are left out
(quantizer dropout gives negative ids). It computes in float32, so z is float32 also for a float64 input.

Shapes: B batch, N positions, C channels, G tokens a position.
"""

from __future__ import annotations

import math

import vector_quantize_pytorch as library
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.library_adapter import LibraryAdapter, real_device

_MAX_CODEBOOK_SIZE = 2**20


class ResidualFSQ(LibraryAdapter):
    """Several finite scalar quantizers, each coding what the ones before it left over (RVQ's algorithm, see `ResidualVQ`).

    The levels lie symmetrically about 0 (arXiv 2411.19842, section 3.2). It has no losses and no parameters.

    Args:
        levels: levels of each channel, each at least 2; all quantizers share them.
        num_quantizers: quantizers, and tokens a position.

    Raises:
        SmaltiError: no levels, a level below 2, no quantizer, or more than 2^20 codes, which the library would enumerate.
    """

    def __init__(self, levels: list[int], num_quantizers: int) -> None:
        super().__init__()
        self._check(num_quantizers=num_quantizers)
        if not levels or min(levels) < 2:
            raise SmaltiError(f"ResidualFSQ takes one or more levels, each at least 2, not {list(levels)}.")
        self.levels = list(levels)
        self.tokens_per_position = self.num_quantizers = num_quantizers
        self.codebook_size = math.prod(levels)
        if self.codebook_size > _MAX_CODEBOOK_SIZE:
            raise SmaltiError(
                f"ResidualFSQ enumerates its codebook, and levels {self.levels} make {self.codebook_size} codes, more than "
                f"{_MAX_CODEBOOK_SIZE}: give it fewer levels and more quantizers, or use FSQ."
            )
        self.in_dim = self.out_dim = len(levels)
        with real_device():
            self.inner = library.ResidualFSQ(levels=self.levels, num_quantizers=num_quantizers)

    def dequantize(self, ids: Tensor) -> Tensor:
        """(B, N, num_quantizers) to (B, N, C)."""
        return self.inner.get_output_from_indices(ids)

    def _run(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        z, ids = self.inner(h)
        return z, ids.long(), {}
