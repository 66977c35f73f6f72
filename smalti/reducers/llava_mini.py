"""LLaVA-Mini's compressor: a few learned queries read all tokens (arXiv 2501.03895).

The pre-fusion layers, which give text access to all tokens, need the language model and are not here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smalti.reducers.base import Grid, Reduced, Reducer, check_tokens, full_lengths
from smalti.reducers.positions import resize_table, sincos_table


class QueryCompressor(Reducer):
    """n x n learned queries attend to all tokens.

    z = LN(x); keys are z plus positions, values are z, queries are LN(q) plus positions. Applied before the projector to
    the language model. High resolutions are stitched first: `smalti.reducers.stitch`.

    Args:
        channels: C of the tokens.
        dim: width of queries and output.
        side: n. The published model uses 1: one token per image.
        heads: number of heads.
    """

    kind = "queries"
    learned = True

    def __init__(self, channels: int = 1024, dim: int = 1024, side: int = 1, heads: int = 8) -> None:
        super().__init__()
        self.side, self.dim = side, dim
        self.query = nn.Parameter(torch.randn(side**2, dim) * 0.02)
        self.kv_proj = nn.Linear(channels, dim, bias=False) if channels != dim else nn.Identity()
        self.ln_q, self.ln_kv = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)

    def attend(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Return the output (B, n^2, dim), and the attention (B, n^2, N) averaged over heads."""
        check_tokens(tokens, grid)
        z = self.ln_kv(self.kv_proj(tokens))
        table = sincos_table(z.shape[2], self.side, z)
        query = (self.ln_q(self.query) + table).expand(len(z), -1, -1)
        return self.attn(query, z + resize_table(table, self.side, grid), z)

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, n^2, dim). Each position is assigned to the query that attends to it most."""
        out, attention = self.attend(tokens, grid)
        return Reduced(out, full_lengths(out), attention.argmax(1))
