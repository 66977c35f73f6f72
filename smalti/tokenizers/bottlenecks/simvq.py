"""Vector quantization whose codebook is a learned linear map of frozen vectors."""

from __future__ import annotations

import vector_quantize_pytorch as library
from torch import Tensor
from torch.nn import functional as F

from smalti.tokenizers.bottlenecks.kmeans import find_nearest, nearest_margin
from smalti.tokenizers.bottlenecks.library_adapter import LibraryAdapter, build_inner


class SimVQ(LibraryAdapter):
    """Vector quantization whose codebook is a learned linear map of frozen random vectors (SimVQ, arXiv 2411.02038).

    Losses, in training mode:
        commitment: (1 + `input_weight`) times the mean squared distance between h and its codeword. The first part trains
            the codebook, the second part the encoder.

    Args:
        dim: channels of a position and of a codeword.
        codebook_size: number of codewords.
        input_weight: weight of the part of the commitment loss that trains the encoder, relative to the codebook's part.
        rotation_trick: compute gradients with the rotation trick (arXiv 2410.06424) instead of straight-through.

    Raises:
        SmaltiError: `dim` or `codebook_size` is below 1.
    """

    loss_names = ("commitment",)

    def __init__(self, dim: int, codebook_size: int, input_weight: float = 0.25, rotation_trick: bool = True) -> None:
        super().__init__(dim, codebook_size)
        self.inner = build_inner(
            library.SimVQ,
            dim=dim,
            codebook_size=codebook_size,
            rotation_trick=rotation_trick,
            input_to_quantize_commit_loss_weight=input_weight,
        )

    def dequantize(self, ids: Tensor) -> Tensor:
        """Map ids (B, N, 1) to their codewords (B, N, C)."""
        # Map the whole codebook. The library maps only the selected vectors, and rounding errors depend on their number.
        return F.embedding(ids.squeeze(-1), self.inner.codebook)

    def decision_margin(self, h: Tensor) -> Tensor:
        """Return the distance of each vector to the boundary between two codewords, (B, N, 1)."""
        return nearest_margin(h.float(), self.inner.codebook).unsqueeze(-1)

    def init_codebooks(self, vectors: Tensor) -> Tensor:
        """Give the codewords, a linear map of fixed random vectors, the standard deviations of the vectors (N, C)."""
        frozen = self.inner.frozen_codebook
        scales = vectors.std(0) / frozen.std().clamp_min(1e-6)
        self.inner.code_transform.weight.copy_(scales.diag())
        return vectors.new_ones(vectors.shape[1])

    def find_ids(self, h: Tensor) -> Tensor:
        """Return the index (B, N, 1) of the codeword that is nearest to each vector."""
        return find_nearest(h.flatten(0, -2), self.inner.codebook).view(*h.shape[:-1], 1)

    def run_inner(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantize h with the library's `SimVQ`."""
        z, ids, commitment = self.inner(h)
        return z, ids.unsqueeze(-1), {"commitment": commitment}
