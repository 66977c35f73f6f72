"""How much of its codebook a tokenizer uses: sparse counts, for books that nobody can enumerate.

Shapes: B batch, N positions, G tokens a position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GroupUsage:
    """Use of the codebook by one of the G tokens of a position, over a whole set.

    Attributes:
        used: number of distinct ids.
        tokens: number of tokens seen.
        share: used / codebook_size.
        reachable_share: used / min(codebook_size, tokens): n tokens cannot use more than n codes of a large book.
        perplexity: exp of the entropy of the ids in nats: `used` where all are equally frequent, 1 where one is alone.
    """

    used: int
    tokens: int
    share: float
    reachable_share: float
    perplexity: float


class IdCounts:
    """Counts of the ids of one group, as sorted pairs (id, count); memory grows with the distinct ids alone."""

    def __init__(self) -> None:
        self.ids = torch.empty(0, dtype=torch.int64)
        self.counts = torch.empty(0, dtype=torch.int64)
        self._pending: list[Tensor] = []

    def add(self, ids: Tensor) -> None:
        """Count ids of any shape, int64."""
        self._pending.append(ids.detach().flatten().cpu())
        # Sorting as much as is there already, and not less, keeps the work within a constant of one sort of everything.
        if sum(len(block) for block in self._pending) > max(len(self.ids), 1 << 16):
            self.settle()

    def settle(self) -> None:
        """Bring `ids` and `counts` up to date."""
        pending = torch.cat([self.ids[:0], *self._pending])
        self._pending = []
        self._merge(*pending.unique(return_counts=True))

    def merge(self, other: IdCounts) -> None:
        """Take in the counts of another part of the set."""
        self.settle()
        other.settle()
        self._merge(other.ids, other.counts)

    def use(self, codebook_size: int) -> GroupUsage:
        """What the counts say about a book of `codebook_size` codes.

        Raises:
            ValueError: nothing was counted.
        """
        self.settle()
        used, tokens = len(self.ids), int(self.counts.sum())
        if tokens == 0:
            raise ValueError("No tokens were counted.")
        p = self.counts.double() / tokens
        return GroupUsage(
            used=used,
            tokens=tokens,
            share=used / codebook_size,
            reachable_share=used / min(codebook_size, tokens),
            perplexity=float((-(p * p.log()).sum()).exp()),
        )

    def _merge(self, ids: Tensor, counts: Tensor) -> None:
        self.ids, place = torch.cat([self.ids, ids]).unique(return_inverse=True)
        both = torch.cat([self.counts, counts])
        self.counts = torch.zeros_like(self.ids).index_add_(0, place, both)
