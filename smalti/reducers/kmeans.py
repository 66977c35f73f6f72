"""K-means with cosine similarity. Each sample is clustered alone, and stops alone."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Clusters(NamedTuple):
    """The result of k-means.

    Attributes:
        labels: (B, N) int64 cluster of each vector.
        means: (B, K, D) mean of the vectors of each cluster, zero for an empty one.
        centroids: (B, K, D) centroids after the last update: an empty cluster keeps the centroid that it had.
    """

    labels: Tensor
    means: Tensor
    centroids: Tensor


@torch.no_grad()
def kmeans(vectors: Tensor, centroids: Tensor, max_iterations: int = 50, tolerance: float = 1e-4) -> Clusters:
    """Cluster vectors, which are divided by their norms first.

    A vector belongs to the centroid with the largest cosine, the first of equal ones. A new centroid is the mean of its
    vectors. A sample stops when the Frobenius norm of the change of its centroids is below the tolerance; its labels then
    belong to the centroids before that update. Gradients are not recorded.

    Args:
        vectors: (B, N, D).
        centroids: (B, K, D) start.
        max_iterations: maximum number of updates.
        tolerance: see above.
    """
    if torch.compiler.is_exporting():
        return _fixed_iterations(F.normalize(vectors, dim=-1), centroids, max_iterations, tolerance)
    labels = torch.empty(vectors.shape[:2], dtype=torch.int64, device=vectors.device)
    means, final = torch.empty_like(centroids), torch.empty_like(centroids)
    for sample in range(len(vectors)):
        start = centroids[sample]
        found = _cluster(F.normalize(vectors[sample], dim=-1), start, max_iterations, tolerance)
        labels[sample], means[sample], final[sample] = found
    return Clusters(labels, means, final)


def _cluster(unit: Tensor, centroids: Tensor, max_iterations: int, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the labels (N,), means (K, D) and centroids (K, D) of one sample.

    Only what changed is computed again: the cosines of centroids that moved, and the sums of clusters that gained or lost
    vectors. In most iterations, these are few.
    """
    count = len(centroids)
    centroids = centroids.clone()
    cosines = unit @ F.normalize(centroids, dim=-1).T
    labels = cosines.argmax(1)
    sums, sizes = _sum_clusters(unit, labels, count)
    touched = torch.arange(count, device=unit.device)
    for iteration in range(max_iterations):
        if iteration > 0:
            cosines[:, touched] = unit @ F.normalize(centroids[touched], dim=-1).T
            found = cosines.argmax(1)
            changed = (found != labels).nonzero()[:, 0]
            if not len(changed):
                break
            before, after, vectors = labels[changed], found[changed], unit[changed]
            sums.index_add_(0, after, vectors).index_add_(0, before, vectors, alpha=-1)
            sizes += torch.bincount(after, minlength=count) - torch.bincount(before, minlength=count)
            touched, labels = torch.cat((before, after)).unique(), found
        filled = sizes[touched, None]
        updated = torch.where(filled > 0, sums[touched] / filled.clamp(min=1), centroids[touched])
        change = float((updated - centroids[touched]).norm())
        centroids[touched] = updated
        if change < tolerance:
            break
    sums, sizes = _sum_clusters(unit, labels, count)  # without the rounding of the updates
    means = sums / sizes.clamp(min=1)[:, None]
    return labels, means, torch.where(sizes[:, None] > 0, means, centroids)


def _sum_clusters(unit: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the sums (K, D) and the sizes (K,) of all clusters."""
    sums = torch.zeros(count, unit.shape[1], dtype=unit.dtype, device=unit.device).index_add_(0, labels, unit)
    return sums, torch.bincount(labels, minlength=count)


def _fixed_iterations(unit: Tensor, centroids: Tensor, max_iterations: int, tolerance: float) -> Clusters:
    """Cluster all samples with the maximum number of iterations, for a graph: it can neither stop nor select."""
    labels = torch.zeros(unit.shape[:2], dtype=torch.int64, device=unit.device)
    means = torch.zeros_like(centroids)
    moving = torch.ones(len(unit), dtype=torch.bool, device=unit.device)
    for _ in range(max_iterations):
        found, mean, updated, is_moving = _iterate(unit, centroids, tolerance)
        labels = torch.where(moving[:, None], found, labels)
        means = torch.where(moving[:, None, None], mean, means)
        centroids = torch.where(moving[:, None, None], updated, centroids)
        moving = moving & is_moving
    return Clusters(labels, means, centroids)


def _iterate(unit: Tensor, centroids: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return labels, means and new centroids of one iteration, and which samples (B,) have not converged."""
    labels = (unit @ F.normalize(centroids, dim=-1).transpose(1, 2)).argmax(2)
    members = F.one_hot(labels, centroids.shape[1]).to(unit.dtype)
    sizes = members.sum(1)[..., None]
    means = members.transpose(1, 2) @ unit / sizes.clamp(min=1)
    updated = torch.where(sizes > 0, means, centroids)
    return labels, means, updated, (updated - centroids).norm(dim=(1, 2)) >= tolerance


def initial_centroids(unit: Tensor, count: int, seed: int = 0) -> Tensor:
    """Choose centroids among the vectors by k-means++ on the Euclidean distance.

    All samples use the same random numbers: a sample's start does not depend on its batch.

    Args:
        unit: (B, N, D) vectors of length 1.
        count: number of centroids K.
        seed: seed of the random numbers.

    Returns:
        (B, K, D).
    """
    generator = random.Random(seed)
    draws = [generator.random() for _ in range(count)]
    batch, total, _ = unit.shape
    rows = torch.arange(batch, device=unit.device)
    chosen = torch.full((batch,), min(int(draws[0] * total), total - 1), device=unit.device)
    centroids = [unit[rows, chosen]]
    distance = torch.full((batch, total), float("inf"), dtype=torch.float64, device=unit.device)
    for draw in draws[1:]:
        squared = (2 - 2 * torch.einsum("bnd,bd->bn", unit, centroids[-1])).double().clamp(min=0)
        distance = torch.minimum(distance, squared.scatter(1, chosen[:, None], 0))
        cumulative = distance.cumsum(1)
        chosen = torch.searchsorted(cumulative, cumulative[:, -1:] * draw, right=True)[:, 0].clamp(max=total - 1)
        centroids.append(unit[rows, chosen])
    return torch.stack(centroids, 1)


def distortion(unit: Tensor, clusters: Clusters) -> Tensor:
    """Return (B,), the sum of squared distances of vectors of length 1 from their centroids."""
    own = clusters.centroids.gather(1, clusters.labels[..., None].expand(-1, -1, unit.shape[2]))
    return (unit - own).square().sum((1, 2))
