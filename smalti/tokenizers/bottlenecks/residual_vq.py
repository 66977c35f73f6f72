"""Quantizers with a learned codebook, and residual ones: vector-quantize-pytorch behind our promises.

The library's own defaults are kept but for those that are named here, and its options that break a promise are left out
(quantizer dropout gives negative ids). It computes in float32, so z is float32 also for a float64 input.

Shapes: B batch, N positions, C channels, G tokens a position.
"""

from __future__ import annotations

import vector_quantize_pytorch as library
from torch import Tensor

from smalti.tokenizers.bottlenecks.library_adapter import LibraryAdapter, real_device


class ResidualVQ(LibraryAdapter):
    """Several `VQ`, each coding what the ones before it left over (SoundStream, arXiv 2107.03312, algorithm 1).

    Losses, in training mode:
        commitment: the sum over the quantizers of the mean squared distance between a residual and its code.

    Args:
        dim: channels of a position and of a code.
        num_quantizers: quantizers, and tokens a position.
        codebook_size: codes of each.
        ema_decay: see `VQ`.
        kmeans_init: see `VQ`.
        dead_code_threshold: see `VQ`.
        rotation_trick: see `VQ`.

    Raises:
        SmaltiError: `dim`, `num_quantizers` or `codebook_size` is below 1.
    """

    def __init__(
        self,
        dim: int,
        num_quantizers: int,
        codebook_size: int,
        ema_decay: float = 0.99,
        kmeans_init: bool = False,
        dead_code_threshold: int = 0,
        rotation_trick: bool = False,
    ) -> None:
        super().__init__()
        self._check(dim=dim, num_quantizers=num_quantizers, codebook_size=codebook_size)
        self.in_dim = self.out_dim = self.dim = dim
        self.codebook_size = codebook_size
        self.tokens_per_position = self.num_quantizers = num_quantizers
        with real_device():
            self.inner = library.ResidualVQ(
                dim=dim,
                num_quantizers=num_quantizers,
                codebook_size=codebook_size,
                decay=ema_decay,
                kmeans_init=kmeans_init,
                threshold_ema_dead_code=dead_code_threshold,
                rotation_trick=rotation_trick,
                sync_codebook=False,
            )

    def dequantize(self, ids: Tensor) -> Tensor:
        """(B, N, num_quantizers) to (B, N, C)."""
        return self.inner.get_output_from_indices(ids)

    def _run(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        z, ids, losses = self.inner(h)
        return z, ids, {"commitment": losses.sum()}
