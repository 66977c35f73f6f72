"""Quantizers with a learned codebook, and residual ones: vector-quantize-pytorch behind our promises.

The library's own defaults are kept but for those that are named here, and its options that break a promise are left out
(quantizer dropout gives negative ids). It computes in float32, so z is float32 also for a float64 input.

Shapes: B batch, N positions, C channels, G tokens a position.
"""

from __future__ import annotations

import vector_quantize_pytorch as library
from torch import Tensor
from torch.nn import functional as F

from smalti.tokenizers.bottlenecks.library_adapter import LibraryAdapter, real_device


class SimVQ(LibraryAdapter):
    """Vector quantization whose codebook is a learned linear map of frozen random vectors (SimVQ, arXiv 2411.02038).

    Losses, in training mode:
        commitment: mean squared distance between h and its code, the gradient to h scaled by `input_weight`.

    Args:
        dim: channels of a position and of a code.
        codebook_size: codes.
        input_weight: how much of the commitment's gradient reaches h; all of it reaches the codebook.
        rotation_trick: pass gradients by rotation (arXiv 2410.06424), not straight through.

    Raises:
        SmaltiError: `dim` or `codebook_size` is below 1.
    """

    def __init__(self, dim: int, codebook_size: int, input_weight: float = 0.25, rotation_trick: bool = True) -> None:
        super().__init__()
        self._check(dim=dim, codebook_size=codebook_size)
        self.in_dim = self.out_dim = self.dim = dim
        self.codebook_size = codebook_size
        self.tokens_per_position = 1
        with real_device():
            self.inner = library.SimVQ(
                dim=dim,
                codebook_size=codebook_size,
                rotation_trick=rotation_trick,
                input_to_quantize_commit_loss_weight=input_weight,
            )

    def dequantize(self, ids: Tensor) -> Tensor:
        """(B, N, 1) to (B, N, C)."""
        # The library maps the chosen codes only, whose rounding depends on how many they are; mapping the book does not.
        return F.embedding(ids.squeeze(-1), self.inner.codebook)

    def _run(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        z, ids, commitment = self.inner(h)
        return z, ids.unsqueeze(-1), {"commitment": commitment}
