"""Quantizers with a learned codebook, and residual ones: vector-quantize-pytorch behind our promises.

The library's own defaults are kept but for those that are named here, and its options that break a promise are left out
(quantizer dropout gives negative ids). It computes in float32, so z is float32 also for a float64 input.

Shapes: B batch, N positions, C channels, G tokens a position.
"""

from __future__ import annotations

import vector_quantize_pytorch as library
from torch import Tensor

from smalti.tokenizers.bottlenecks.library_adapter import LibraryAdapter, real_device


class VQ(LibraryAdapter):
    """Vector quantization (VQ-VAE, arXiv 1711.00937), whose codes are moving averages of what fell to them (appendix A.1).

    The statistics are those of the global batch where torch.distributed is initialised.

    Losses, in training mode:
        commitment: mean squared distance between h and its code.

    Args:
        dim: channels of a position and of a code.
        codebook_size: codes.
        ema_decay: of the moving average, a step.
        cosine: compare directions (ViT-VQGAN, arXiv 2110.04627); codes then have length 1.
        kmeans_init: start from the clusters of the first batch.
        dead_code_threshold: a code whose average count a step falls below it is replaced by a random vector of the batch;
            0: never.
        rotation_trick: pass gradients by rotation (arXiv 2410.06424), not straight through.

    Raises:
        SmaltiError: `dim` or `codebook_size` is below 1.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        ema_decay: float = 0.99,
        cosine: bool = False,
        kmeans_init: bool = False,
        dead_code_threshold: int = 0,
        rotation_trick: bool = False,
    ) -> None:
        super().__init__()
        self._check(dim=dim, codebook_size=codebook_size)
        self.in_dim = self.out_dim = self.dim = dim
        self.codebook_size = codebook_size
        self.tokens_per_position = 1
        with real_device():
            self.inner = library.VectorQuantize(
                dim=dim,
                codebook_size=codebook_size,
                decay=ema_decay,
                use_cosine_sim=cosine,
                kmeans_init=kmeans_init,
                threshold_ema_dead_code=dead_code_threshold,
                rotation_trick=rotation_trick,
                sync_codebook=False,
            )

    def dequantize(self, ids: Tensor) -> Tensor:
        """(B, N, 1) to (B, N, C)."""
        return self.inner.get_output_from_indices(ids.squeeze(-1))

    def _run(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        z, ids, _, losses = self.inner(h, return_loss_breakdown=True)
        return z, ids.unsqueeze(-1), {"commitment": losses.commitment}
