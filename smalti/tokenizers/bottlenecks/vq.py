"""Vector quantization with a learned codebook."""

from __future__ import annotations

import vector_quantize_pytorch as library
from torch import Tensor
from torch.nn import functional as F

from smalti.tokenizers.bottlenecks.kmeans import find_nearest, nearest_margin, set_codebook
from smalti.tokenizers.bottlenecks.library_adapter import LibraryAdapter, build_inner


class VQ(LibraryAdapter):
    """Vector quantization (VQ-VAE, arXiv 1711.00937), with codewords learned by exponential moving average (appendix A.1).

    If a process group exists, the averages are computed over the global batch.

    Losses, in training mode:
        commitment: mean squared distance between h and its codeword.

    Args:
        dim: channels of a position and of a codeword.
        codebook_size: number of codewords.
        ema_decay: decay of the moving average per step.
        cosine: use cosine similarity instead of distance (ViT-VQGAN, arXiv 2110.04627); codewords then have length 1.
        kmeans_init: initialize the codebook with k-means on the first batch.
        dead_code_threshold: a codeword whose average count per step falls below this value is replaced by a random vector
            of the batch; 0 disables it.
        rotation_trick: compute gradients with the rotation trick (arXiv 2410.06424) instead of straight-through.

    Raises:
        SmaltiError: `dim` or `codebook_size` is below 1.
    """

    loss_names = ("commitment",)

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
        super().__init__(dim, codebook_size)
        self.cosine = cosine
        self.inner = build_inner(
            library.VectorQuantize,
            dim=dim,
            codebook_size=codebook_size,
            decay=ema_decay,
            use_cosine_sim=cosine,
            kmeans_init=kmeans_init,
            threshold_ema_dead_code=dead_code_threshold,
            rotation_trick=rotation_trick,
            sync_codebook=False,  # `LibraryAdapter` synchronizes
        )

    def dequantize(self, ids: Tensor) -> Tensor:
        """Map ids (B, N, 1) to their codewords (B, N, C)."""
        return self.inner.get_output_from_indices(ids.squeeze(-1))

    def decision_margin(self, h: Tensor) -> Tensor:
        """Return the distance of each (normalized) vector to the boundary between two codewords, (B, N, 1)."""
        h = F.normalize(h.float(), dim=-1) if self.cosine else h.float()
        return nearest_margin(h, self.inner.codebook).unsqueeze(-1)

    def init_codebooks(self, vectors: Tensor) -> Tensor:
        """Set the codebook to the k-means of the vectors (N, C), which keep their scale."""
        if self.cosine:
            vectors = F.normalize(vectors, dim=-1)
        codewords = set_codebook(self.inner._codebook, vectors)
        if self.cosine:
            self.inner._codebook.embed.copy_(F.normalize(codewords, dim=-1))
        return vectors.new_ones(vectors.shape[1])

    def find_ids(self, h: Tensor) -> Tensor:
        """Return the index (B, N, 1) of the codeword that is nearest to each vector."""
        h = F.normalize(h, dim=-1) if self.cosine else h
        return find_nearest(h.flatten(0, -2), self.inner.codebook).view(*h.shape[:-1], 1)

    def run_inner(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantize h with the library's `VectorQuantize`."""
        z, ids, _, losses = self.inner(h, return_loss_breakdown=True)
        return z, ids.unsqueeze(-1), {"commitment": losses.commitment}
