"""QueCC: query-conditioned convolutional cross-attention (arXiv 2411.03312)."""

from __future__ import annotations

from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid, Reduced, Reducer, check_tokens, full_lengths, same_for_all
from smalti.reducers.m3 import assign_windows

_EPS = 1e-6


class QueCC(Reducer):
    """Each query reads its own block of the grid; the queries are the downsampled tokens plus the question.

    t = LN(Linear(text)); mlp(.) = LN(Linear(GELU(Linear(.)))); queries = depthwise convolution of mlp_q(x + t); keys and
    values = mlp_k(m), mlp_v(m) of features m of several layers.

    Args:
        dim: D of tokens and output, a multiple of the heads.
        feature_dim: L, the channels of all layers together.
        text_dim: width of the text vector.
        kernel: kernel of the convolution, and its stride unless given.
        stride: stride of the convolution; None for the kernel.
        heads: number of heads.
    """

    kind = "queries"
    learned = True

    def __init__(
        self, dim: int, feature_dim: int, text_dim: int, kernel: int = 4, stride: int | None = None, heads: int = 8
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.dim = kernel, stride or kernel, dim
        self.text_projection = nn.Sequential(nn.Linear(text_dim, dim), nn.LayerNorm(dim, eps=_EPS))
        self.q_proj, self.k_proj, self.v_proj = _mlp(dim, dim), _mlp(feature_dim, dim), _mlp(feature_dim, dim)
        self.q_downsample = nn.Conv2d(dim, dim, kernel, self.stride, groups=dim)
        self.clip_attn = nn.MultiheadAttention(dim, heads, batch_first=True)

    def reduce(
        self,
        tokens: Tensor,
        grid: Grid,
        *,
        saliency: Tensor | None = None,
        keys: Tensor | None = None,
        text: Tensor | None = None,
    ) -> Reduced:
        """Return (B, h * w, D) in raster order of the query grid.

        Args:
            tokens: (B, N, D) features of one layer.
            grid: (height, width) of the grid.
            saliency: not used.
            keys: (B, N, L) features of several layers, concatenated on the channels; None to use the tokens.
            text: (B, 1, text_dim) vector of the question; None for zeros, which still add a constant.
        """
        check_tokens(tokens, grid)
        small = ((grid[0] - self.kernel) // self.stride + 1, (grid[1] - self.kernel) // self.stride + 1)
        whole = self.kernel != self.stride or grid[0] % self.kernel == grid[1] % self.kernel == 0
        if min(small) < 1 or grid[0] % small[0] or grid[1] % small[1] or not whole:
            raise SmaltiError(
                f"A grid of {grid[0]} x {grid[1]} does not divide into blocks for a kernel of {self.kernel} and a stride "
                f"of {self.stride}: choose a kernel that divides height and width."
            )
        features = tokens if keys is None else keys
        if text is None:
            text = tokens.new_zeros(len(tokens), 1, self.text_projection[0].in_features)  # pyright: ignore
        query = self.q_proj(tokens + self.text_projection(text))
        query = self.q_downsample(query.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)
        key, value = (_blocks(projection(features), grid, small) for projection in (self.k_proj, self.v_proj))
        read, _ = self.clip_attn(query.flatten(0, 1)[:, None], key, value, need_weights=False)
        out = read.reshape(len(tokens), small[0] * small[1], -1)
        block = grid[0] // small[0]
        square = block == grid[1] // small[1]
        assignment = same_for_all(assign_windows(grid, block), tokens) if square else None
        return Reduced(out, full_lengths(out), assignment)


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, outputs), nn.GELU(), nn.Linear(outputs, outputs), nn.LayerNorm(outputs, eps=_EPS)
    )


def _blocks(tokens: Tensor, grid: Grid, small: Grid) -> Tensor:
    """Return (B * h * w, positions of a block, D) for tokens (B, H * W, D)."""
    height, width = grid[0] // small[0], grid[1] // small[1]
    maps = tokens.reshape(-1, small[0], height, small[1], width, tokens.shape[2])
    return maps.transpose(2, 3).reshape(-1, height * width, tokens.shape[2])
