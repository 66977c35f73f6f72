"""Keep the most salient tokens: the simplest selector."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers.base import (
    Grid,
    Reduced,
    Reducer,
    check_saliency,
    check_tokens,
    count_kept,
    full_lengths,
    gather_tokens,
    invert,
)


class TopK(Reducer):
    """Keep the K tokens with the largest saliency.

    Args:
        keep: number of tokens (an integer), or the fraction of them in (0, 1].
        order: "raster", or "saliency" for descending saliency, as GlobalCom2 orders its thumbnail.
    """

    kind = "select"
    needs = ("saliency",)

    def __init__(self, keep: float = 0.25, order: Literal["raster", "saliency"] = "raster") -> None:
        super().__init__()
        if order not in ("raster", "saliency"):
            raise SmaltiError(f"order is '{order}': choose raster or saliency.")
        self.keep, self.order = keep, order

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, K, C). Ties are broken by position."""
        check_tokens(tokens, grid)
        scores = check_saliency(saliency, tokens, "TopK")
        indices = scores.argsort(dim=1, descending=True, stable=True)[:, : count_kept(self.keep, tokens.shape[1])]
        if self.order == "raster":
            indices = indices.sort(1).values
        kept = gather_tokens(tokens, indices)
        return Reduced(kept, full_lengths(kept), invert(indices, tokens.shape[1]), indices)
