"""Residual vector quantization."""

from __future__ import annotations

import torch
import vector_quantize_pytorch as library
from torch import Tensor
from torch.nn import functional as F

from smalti.tokenizers.bottlenecks.kmeans import find_nearest, nearest_margin, set_codebook
from smalti.tokenizers.bottlenecks.library_adapter import LibraryAdapter, build_inner


class ResidualVQ(LibraryAdapter):
    """Residual vector quantization (SoundStream, arXiv 2107.03312, algorithm 1): each `VQ` quantizes the previous residual.

    Losses, in training mode:
        commitment: mean squared distance between a residual and its codeword, summed over the quantizers.

    Args:
        dim: channels of a position and of a codeword.
        num_quantizers: number of quantizers, which is the number of tokens per position.
        codebook_size: number of codewords of each quantizer.
        ema_decay: see `VQ`.
        kmeans_init: see `VQ`.
        dead_code_threshold: see `VQ`.
        rotation_trick: see `VQ`.

    Raises:
        SmaltiError: `dim`, `num_quantizers` or `codebook_size` is below 1.
    """

    loss_names = ("commitment",)

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
        super().__init__(dim, codebook_size, num_quantizers)
        self.inner = build_inner(
            library.ResidualVQ,
            dim=dim,
            num_quantizers=num_quantizers,
            codebook_size=codebook_size,
            decay=ema_decay,
            kmeans_init=kmeans_init,
            threshold_ema_dead_code=dead_code_threshold,
            rotation_trick=rotation_trick,
            sync_codebook=False,  # `LibraryAdapter` synchronizes
        )

    def dequantize(self, ids: Tensor) -> Tensor:
        """Map ids (B, N, num_quantizers) to the sums of their codewords (B, N, C)."""
        if not torch.compiler.is_exporting():
            return self.inner.get_output_from_indices(ids)
        parts = zip(ids.unbind(-1), self.inner.layers, strict=True)
        return torch.stack([F.embedding(i, layer.codebook) for i, layer in parts]).sum(0)

    def decision_margin(self, h: Tensor) -> Tensor:
        """Return the distance of each residual to the boundary between two codewords, (B, N, num_quantizers).

        A token also depends on the tokens before it: it has at most their margin.
        """
        h = h.float()
        margins = []
        for layer, index in zip(self.inner.layers, self.find_ids(h).unbind(-1), strict=True):
            margins.append(nearest_margin(h, layer.codebook))
            h = h - F.embedding(index, layer.codebook)
        return torch.stack(margins, dim=-1).cummin(dim=-1).values

    def init_codebooks(self, vectors: Tensor) -> Tensor:
        """Set each codebook to the k-means of the residuals that the ones before it leave."""
        residuals = vectors
        for layer in self.inner.layers:
            codewords = set_codebook(layer._codebook, residuals)
            residuals = residuals - codewords[find_nearest(residuals, codewords)]
        return vectors.new_ones(vectors.shape[1])

    def find_ids(self, h: Tensor) -> Tensor:
        """Return the indices (B, N, num_quantizers) of the codewords nearest to each residual."""
        ids = []
        for layer in self.inner.layers:
            ids.append(find_nearest(h.flatten(0, -2), layer.codebook).view(h.shape[:-1]))
            h = h - F.embedding(ids[-1], layer.codebook)
        return torch.stack(ids, dim=-1)

    def run_inner(self, h: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantize h with the library's `ResidualVQ`."""
        z, ids, losses = self.inner(h)
        return z, ids, {"commitment": losses.sum()}
