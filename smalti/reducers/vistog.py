"""VisToG: learned semantic tokens group the tokens of a frozen encoder (arXiv 2411.17773). AN INTERPRETATION.

There is no published code, and the paper's formulas were not available: its abstract says that semantic tokens join the
patch tokens after the patch embedding, that isolated attention keeps them from changing the image tokens, and that a
grouping layer forms the output before the projector. The similarity, its temperature and the update below are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from smalti.reducers.base import Grid, Reduced, Reducer, check_tokens, full_lengths


class VisToG(Reducer):
    """Semantic tokens through the encoder, then a soft assignment of the image tokens to them.

    Output: g_i + sum_j a_ij v_j / sum_j a_ij with a = softmax over groups of q(g) k(x) / sqrt(dim).

    Args:
        dim: channels of the encoder.
        groups: number of semantic tokens.
    """

    kind = "queries"
    learned = True

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        self.semantic = nn.Parameter(torch.randn(groups, dim) * 0.02)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.norm_groups, self.norm_tokens = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def encode(self, patches: Tensor, encoder: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Run patches and semantic tokens through an encoder with isolated attention.

        Args:
            patches: (B, N, C) after the patch embedding, with a class token if the encoder has one.
            encoder: function of tokens (B, N + G, C) and of a mask (N + G, N + G), True where a query may attend.

        Returns:
            The encoded image tokens (B, N, C), which equal those without semantic tokens, and semantic tokens (B, G, C).
        """
        groups = self.semantic.expand(len(patches), -1, -1)
        mask = isolation_mask(patches.shape[1], groups.shape[1], patches.device)
        encoded = encoder(torch.cat((patches, groups), 1), mask)
        return encoded[:, : patches.shape[1]], encoded[:, patches.shape[1] :]

    def reduce(
        self,
        tokens: Tensor,
        grid: Grid,
        *,
        saliency: Tensor | None = None,
        keys: Tensor | None = None,
        semantic: Tensor | None = None,
    ) -> Reduced:
        """Return (B, G, C). Each image token is assigned to the group of its largest weight.

        Args:
            tokens: (B, N, C) encoded image tokens, without a class token.
            grid: (height, width) of the grid.
            saliency: not used.
            keys: not used.
            semantic: (B, G, C) semantic tokens, as `encode` returns them; None for those before the encoder.
        """
        check_tokens(tokens, grid)
        groups = self.semantic.expand(len(tokens), -1, -1) if semantic is None else semantic
        x = self.norm_tokens(tokens)
        logits = self.query(self.norm_groups(groups)) @ self.key(x).transpose(1, 2) / math.sqrt(x.shape[2])
        weights = logits.softmax(1)
        share = weights / weights.sum(2, keepdim=True)
        out = groups + share @ self.value(x)
        return Reduced(out, full_lengths(out), logits.argmax(1), None, weights.sum(2))


def isolation_mask(tokens: int, groups: int, device: torch.device | None = None) -> Tensor:
    """Return (N + G, N + G): image tokens see image tokens only; semantic tokens see everything."""
    mask = torch.ones(tokens + groups, tokens + groups, dtype=torch.bool, device=device)
    mask[:tokens, tokens:] = False
    return mask
