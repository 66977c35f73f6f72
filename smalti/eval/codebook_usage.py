"""Codebook usage of a tokenizer, by sparse counts, for codebooks that are too large to enumerate.

Shapes: B batch, N positions, G tokens per position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DEFINITIONS = {
    "codebook_size": "number of values that one token can have",
    "used": "number of codewords that occur, separately for each of the tokens per latent position",
    "tokens": "number of tokens of all samples, with those for padding",
    "reachable": "the largest number of codewords that this many tokens can use: min(codebook_size, tokens)",
    "share": "used / codebook_size, from 0 to 1",
    "reachable_share": "used / reachable, from 0 to 1: a share of 1 is possible for a codebook of any size",
    "perplexity": "exp(-sum over codewords of p ln p), where p is the frequency of a codeword among the tokens: from 1, if "
    "all tokens are equal, to the number of used codewords, if all are equally frequent",
}
"""What the numbers of a report about the codebook are."""

_MIN_PENDING = 1 << 16


@dataclass(frozen=True)
class GroupUsage:
    """Codebook usage of one of the G tokens per position, over a dataset.

    Attributes:
        used: number of distinct ids.
        tokens: number of tokens.
        reachable: the largest possible `used`: min(codebook_size, tokens).
        share: used / codebook_size.
        reachable_share: used / reachable.
        perplexity: exp of the entropy of the ids in nats.
    """

    used: int
    tokens: int
    reachable: int
    share: float
    reachable_share: float
    perplexity: float


class IdCounts:
    """Counts of the ids of one group, as sorted pairs (id, count). Memory grows only with the number of distinct ids.

    Attributes:
        ids: distinct ids, ascending, int64. Up to date after `consolidate`.
        counts: count of each id, int64.
    """

    def __init__(self) -> None:
        self.ids = torch.empty(0, dtype=torch.int64)
        self.counts = torch.empty(0, dtype=torch.int64)
        self._pending: list[Tensor] = []

    def add(self, ids: Tensor) -> None:
        """Count ids, int64 of any shape."""
        self._pending.append(ids.detach().flatten().cpu())
        # Sorting only when as many ids are pending as are stored costs in total a constant times one sort of all ids.
        if sum(len(block) for block in self._pending) > max(len(self.ids), _MIN_PENDING):
            self.consolidate()

    def consolidate(self) -> None:
        """Bring `ids` and `counts` up to date."""
        pending = torch.cat([self.ids[:0], *self._pending])
        self._pending = []
        self._merge(*pending.unique(return_counts=True))

    def merge(self, other: IdCounts) -> None:
        """Add the counts of another part of the dataset."""
        self.consolidate()
        other.consolidate()
        self._merge(other.ids, other.counts)

    def summarize(self, codebook_size: int) -> GroupUsage:
        """Return the usage of a codebook with `codebook_size` entries.

        Raises:
            ValueError: nothing was counted.
        """
        self.consolidate()
        used, tokens = len(self.ids), int(self.counts.sum())
        if tokens == 0:
            raise ValueError("No tokens were counted.")
        p = self.counts.double() / tokens
        return GroupUsage(
            used=used,
            tokens=tokens,
            reachable=min(codebook_size, tokens),
            share=used / codebook_size,
            reachable_share=used / min(codebook_size, tokens),
            perplexity=float((-(p * p.log()).sum()).exp()),
        )

    def _merge(self, ids: Tensor, counts: Tensor) -> None:
        self.ids, indices = torch.cat([self.ids, ids]).unique(return_inverse=True)
        self.counts = torch.zeros_like(self.ids).index_add_(0, indices, torch.cat([self.counts, counts]))
