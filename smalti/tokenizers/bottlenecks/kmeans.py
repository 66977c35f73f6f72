"""Codebooks of vectors that represent principal components: the start of vector quantizers.

Shapes: N vectors; C channels; K codewords.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ITERATIONS = 12
_CHUNK = 4096


def kmeans(vectors: Tensor, count: int) -> Tensor:
    """Return codewords (K, C) with a small squared distance to vectors (N, C): Lloyd's algorithm from random vectors.

    The result depends only on the arguments. A codebook larger than the number of vectors repeats them with noise.

    Args:
        vectors: the data.
        count: number of codewords K.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(vectors), generator=generator)
    order = order.repeat(-(-count // len(order)))[:count].to(vectors.device)
    noise = torch.randn(count, vectors.shape[1], generator=generator).to(vectors)
    codewords = vectors[order] + noise * (1e-3 * vectors.std())
    if 2 * count > len(vectors):
        return codewords
    for _ in range(_ITERATIONS):
        nearest = find_nearest(vectors, codewords)
        sums = torch.zeros_like(codewords).index_add_(0, nearest, vectors)
        counts = torch.bincount(nearest, minlength=count).to(vectors).unsqueeze(1)
        codewords = torch.where(counts > 0, sums / counts.clamp_min(1), codewords)
    return codewords


def find_nearest(vectors: Tensor, codewords: Tensor) -> Tensor:
    """Return the index of the nearest codeword (K, C) for each vector (N, C)."""
    energy = codewords.square().sum(1)
    if torch.compiler.is_exporting():  # the number of vectors is not known
        return (energy - 2 * vectors @ codewords.T).argmin(1)
    chunks = [(energy - 2 * chunk @ codewords.T).argmin(1) for chunk in vectors.split(_CHUNK)]
    return torch.cat(chunks)


def nearest_margin(vectors: Tensor, codewords: Tensor) -> Tensor:
    """Return the distance of vectors (..., C) to the boundary between their two nearest codewords (K, C), in float64.

    With distances d1 <= d2 to the codewords c1 and c2, it is (d2^2 - d1^2) / (2 |c2 - c1|); infinite for one codeword.
    """
    if len(codewords) == 1:
        return vectors.new_full(vectors.shape[:-1], torch.inf, dtype=torch.float64)
    codewords = codewords.double()
    margins = []
    for chunk in vectors.double().flatten(0, -2).split(_CHUNK):
        squares = torch.cdist(chunk, codewords, compute_mode="donot_use_mm_for_euclid_dist").square()
        (first, second), (i, j) = (part.unbind(-1) for part in squares.topk(2, largest=False))
        gap = (codewords[i] - codewords[j]).norm(dim=-1)
        margins.append((second - first) / (2 * gap.clamp_min(1e-30)))
    return torch.cat(margins).unflatten(0, vectors.shape[:-1])


def set_codebook(codebook: Any, vectors: Tensor) -> Tensor:
    """Set a codebook of vector-quantize-pytorch to the k-means of vectors (N, C), and return its codewords (K, C)."""
    codewords = kmeans(vectors, codebook.embed.shape[1])
    counts = torch.bincount(find_nearest(vectors, codewords), minlength=len(codewords)).to(vectors)
    codebook.embed.copy_(codewords)
    codebook.cluster_size.copy_(counts.clamp_min(1))
    codebook.embed_avg.copy_(codewords * counts.clamp_min(1).unsqueeze(1))
    codebook.initted.fill_(True)
    return codewords
