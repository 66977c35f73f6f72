"""VQToken: cluster the tokens of a video to a few vectors and a map of indices (arXiv 2503.16980)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid, Reduced, Reducer, check_keys, check_tokens, full_lengths
from smalti.reducers.kmeans import Clusters, distortion, initial_centroids, kmeans

ADAPTIVE_RANGE = (12, 32)
"""Numbers of clusters that the published model tries."""


class VQToken(Reducer):
    """Cluster tokens by cosine and return the means of the clusters.

    As published, the tokens are divided by their norms first and the means are not normalized: the magnitude of tokens is
    lost. An empty cluster gives a zero token. `keep_magnitude` averages the tokens themselves, which a decoder needs.

    Args:
        clusters: number of clusters K; None to choose K for each sample by the elbow of the distortion, between 12 and 32.
        max_iterations: maximum number of updates of k-means.
        tolerance: change of the centroids at which k-means stops.
        keep_magnitude: whether to average the tokens instead of their directions.
        seed: seed of the first centroids (k-means++).
        upstream: whether to choose K as the published code does, which reads the elbow 10 clusters too low.
    """

    kind = "cluster"

    def __init__(
        self,
        clusters: int | None = 32,
        max_iterations: int = 50,
        tolerance: float = 1e-4,
        keep_magnitude: bool = False,
        seed: int = 0,
        upstream: bool = False,
    ) -> None:
        super().__init__()
        self.clusters, self.max_iterations, self.tolerance = clusters, max_iterations, tolerance
        self.keep_magnitude, self.seed, self.upstream = keep_magnitude, seed, upstream

    @property
    def fixed_length(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the number of tokens depends on the grid only."""
        return self.clusters is not None

    def cluster(self, tokens: Tensor, count: int, centroids: Tensor | None = None) -> Clusters:
        """Cluster tokens (B, N, C) by cosine.

        Args:
            tokens: the tokens of all frames.
            count: number of clusters.
            centroids: (B, K, C) start; None for k-means++.
        """
        if centroids is None:
            centroids = initial_centroids(F.normalize(tokens, dim=-1), count, self.seed)
        return kmeans(tokens, centroids, self.max_iterations, self.tolerance)

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, K, C). The assignment is the map of indices, the sizes are the numbers of tokens of the clusters.

        Args:
            tokens: (B, frames * N, C), frame by frame.
            grid: (height, width) of one frame.
            saliency: not used.
            keys: (B, frames * N, D) vectors to cluster instead of the tokens.
        """
        frames = tokens.shape[1] // max(grid[0] * grid[1], 1) if tokens.ndim == 3 else 1
        check_tokens(tokens, grid, max(frames, 1))
        vectors = check_keys(keys, tokens)
        first = self.clusters if self.clusters is not None else ADAPTIVE_RANGE[0]
        last = self.clusters if self.clusters is not None else ADAPTIVE_RANGE[1]
        if not 1 <= last <= tokens.shape[1]:
            raise SmaltiError(f"{last} clusters cannot be made of {tokens.shape[1]} tokens: choose fewer clusters.")
        if first == last:
            labels, lengths = self.cluster(vectors, last).labels, None
        else:
            labels, lengths = self._adaptive(vectors)
        members = F.one_hot(labels, int(lengths.max()) if lengths is not None else last).to(tokens.dtype)
        sizes = members.sum(1)
        averaged = tokens if self.keep_magnitude else F.normalize(tokens, dim=-1)
        means = members.transpose(1, 2) @ averaged / sizes.clamp(min=1)[..., None]
        return Reduced(means, full_lengths(means) if lengths is None else lengths, labels, None, sizes)

    def _adaptive(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels (B, N) for the best number of clusters of each sample, and these numbers (B,)."""
        unit = F.normalize(vectors, dim=-1)
        counts = range(ADAPTIVE_RANGE[0], ADAPTIVE_RANGE[1] + 1)
        results = [self.cluster(vectors, count) for count in counts]
        best = elbow(torch.stack([distortion(unit, found) for found in results], 1), upstream=self.upstream)
        labels = torch.stack([results[int(k) - ADAPTIVE_RANGE[0]].labels[b] for b, k in enumerate(best)])
        return labels, best


def elbow(distortions: Tensor, first: int = ADAPTIVE_RANGE[0], *, upstream: bool = False) -> Tensor:
    """Return the number of clusters at the elbow: where the second difference of the distortion is largest.

    Args:
        distortions: (B, L) for K = first, first + 1, ...
        first: the smallest K.
        upstream: whether to read the index as if the list began at 3 clusters, with a minimum of `first`.

    Returns:
        (B,) int64.

    Raises:
        SmaltiError: there are fewer than 3 values of K.
    """
    if distortions.shape[1] < 3:
        raise SmaltiError(
            f"An elbow needs at least 3 numbers of clusters, not {distortions.shape[1]}: try more of them."
        )
    index = distortions.diff(n=2, dim=1).argmax(1)
    return (index + 4).clamp(min=first) if upstream else index + first + 1


class VQAttention(nn.Module):
    """Attention of the map of indices to the codebook, the paper's optional last step.

    The rows of the map are the queries, as numbers. If there are fewer frames T than codewords K, the rows repeat to K; if
    there are more, the codebook repeats to T.

    Args:
        tokens_per_frame: N.
        dim: D, the width of the codewords.
        heads: number of heads.
        layers: number of decoder layers.
    """

    def __init__(self, tokens_per_frame: int, dim: int, heads: int = 8, layers: int = 1) -> None:
        super().__init__()
        self.to_q_proj = nn.Linear(tokens_per_frame, dim)
        layer = nn.TransformerDecoderLayer(dim, heads, dim_feedforward=2048, dropout=0.1, batch_first=True)
        self.transformer_decoder = nn.TransformerDecoder(layer, layers)

    def forward(self, labels: Tensor, codebook: Tensor) -> Tensor:
        """Return (B, max(T, K), D).

        Args:
            labels: (B, T, N) integers.
            codebook: (B, K, D).
        """
        rows = self.to_q_proj(labels.to(codebook.dtype))
        length = max(rows.shape[1], codebook.shape[1])
        return self.transformer_decoder(_repeat(rows, length), _repeat(codebook, length))


def _repeat(x: Tensor, length: int) -> Tensor:
    """Return x (B, L, D) repeated cyclically to (B, length, D)."""
    return x.repeat(1, math.ceil(length / x.shape[1]), 1)[:, :length]
