"""Nearest neighbors of latents in a dataset that is too large to keep, such as a training set.

Shapes: M queries; B samples of a batch; K neighbors per query; N positions; C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.seeds import derive_seed


class NeighborSearch:
    """Keeps the latents of the dataset that are most similar to each query, by the cosine of all values of a sample.

    Memory does not grow with the dataset: K + 1 times that of the queries.

    Args:
        queries: (M, N, C).
        count: K.

    Attributes:
        seen: number of samples of the dataset.
    """

    def __init__(self, queries: Tensor, count: int) -> None:
        self._queries, self._count = queries, count
        self._unit = F.normalize(queries.flatten(1).float(), dim=1)
        self._similarity = torch.full((len(queries), count), -inf)
        self._neighbors = torch.zeros(len(queries), count, *queries.shape[1:], dtype=queries.dtype)
        self.seen = 0

    def add(self, z: Tensor) -> None:
        """Add (B, N, C) latents of the dataset."""
        self.seen += len(z)
        similarity = self._unit @ F.normalize(z.flatten(1).float(), dim=1).T
        best, index = torch.cat([self._similarity, similarity], dim=1).topk(self._count, dim=1)
        for row in (index >= self._count).any(1).nonzero().flatten().tolist():
            known, new = self._neighbors[row], z[(index[row] - self._count).clamp(min=0)]
            kept = known[index[row].clamp(max=self._count - 1)]
            is_new = (index[row] >= self._count).view(-1, *[1] * (z.ndim - 1))
            self._neighbors[row] = torch.where(is_new, new.to(known.dtype), kept)
        self._similarity = best

    def draw(self, names: Sequence[str]) -> Tensor:
        """Draw one of the K neighbors of each query, with the probabilities softmax(-mean squared difference).

        Args:
            names: M names of the queries, which determine the choice.

        Returns:
            (M, N, C).
        """
        distance = (self._neighbors - self._queries.unsqueeze(1)).double().square().flatten(2).mean(2)
        probabilities = distance.masked_fill(self._similarity == -inf, inf).neg().softmax(1)
        seeds = [derive_seed("neighbor", name) for name in names]
        chosen = [
            int(torch.multinomial(p, 1, generator=torch.Generator().manual_seed(seed)))
            for p, seed in zip(probabilities, seeds, strict=True)
        ]
        return self._neighbors[torch.arange(len(chosen)), chosen]
