"""ConvLLaVA's fifth stage: a ConvNeXt stage that quarters the tokens (arXiv 2405.15738)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid, Reduced, Reducer, check_tokens, full_lengths, same_for_all
from smalti.reducers.m3 import assign_windows

_EPS = 1e-6


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of maps (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name of the base class)
        """Normalize each position."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class ConvNeXtBlock(nn.Module):
    """x + scale * Linear(GELU(Linear(LN(depthwise 7 x 7 (x))))).

    Args:
        dim: channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((dim,), 1e-6))
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.expand = nn.Linear(dim, 4 * dim)
        self.project = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        h = self.norm(self.dwconv(x).movedim(1, -1))
        return x + (self.layer_scale * self.project(F.gelu(self.expand(h)))).movedim(-1, 1)


class ConvNeXtStage(Reducer):
    """Downsampling by 2 and ConvNeXt blocks: one token per 2 x 2 of the encoder's last map.

    The published recipe trains depth 6 and width 3072 on the stride 32 of ConvNeXt-L: stride 64, without a final norm.

    Args:
        channels: C of the input.
        dim: width of the stage.
        depth: number of blocks.
        upstream: whether to drop the last row or column of an odd map, as the published code does, instead of raising an
            error.
    """

    kind = "pool"
    learned = True

    def __init__(self, channels: int, dim: int = 3072, depth: int = 3, upstream: bool = False) -> None:
        super().__init__()
        self.upstream, self.dim = upstream, dim
        self.downsample = nn.Sequential(
            ChannelLayerNorm(channels, eps=_EPS), nn.Conv2d(channels, dim, kernel_size=2, stride=2)
        )
        self.blocks = nn.Sequential(*(ConvNeXtBlock(dim) for _ in range(depth)))

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, (H // 2) * (W // 2), dim) in raster order."""
        check_tokens(tokens, grid)
        if not self.upstream and (grid[0] % 2 or grid[1] % 2):
            raise SmaltiError(
                f"A grid of {grid[0]} x {grid[1]} cannot be halved: choose images whose grid has even height and width."
            )
        maps = self.blocks(self.downsample(tokens.transpose(1, 2).unflatten(2, grid)))
        out = maps.flatten(2).transpose(1, 2)
        return Reduced(out, full_lengths(out), same_for_all(assign_windows(grid, 2), tokens))
