"""STF and MBTF: spatial token fusion and multi-block token fusion (arXiv 2506.07138)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid, Reduced, Reducer, check_tokens, full_lengths, same_for_all
from smalti.reducers.m3 import assign_windows

CLIP_LAYERS = (23, 21, 18, 15, 12, 9, 6, 3)
"""Hidden states of CLIP ViT-L/14 that MBTF fuses; 0 is the output of the embedding."""


class Fold(Reducer):
    """Fold each window into one token of window^2 * C channels: nothing is lost.

    Channels are ordered channel by channel: index c * window^2 + dy * window + dx.

    Args:
        window: height and width of a window.
        upstream: whether to drop the last rows and columns of a grid that is not a multiple of the window, as the published
            code does, instead of raising an error.
    """

    kind = "fold"

    def __init__(self, window: int = 2, upstream: bool = False) -> None:
        super().__init__()
        self.window, self.upstream = window, upstream

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, (H // w) * (W // w), w^2 C) in raster order of the windows."""
        check_tokens(tokens, grid)
        if not self.upstream and (grid[0] % self.window or grid[1] % self.window):
            raise SmaltiError(
                f"A grid of {grid[0]} x {grid[1]} cannot be folded in windows of {self.window} x {self.window}: choose a "
                "window that divides height and width."
            )
        maps = tokens.transpose(1, 2).unflatten(2, grid)
        windows = F.unfold(maps, self.window, stride=self.window).transpose(1, 2)
        return Reduced(windows, full_lengths(windows), same_for_all(assign_windows(grid, self.window), tokens))

    def expand(self, reduced: Reduced, grid: Grid) -> Tensor:
        """Unfold the windows: the inverse of `reduce`. Rows and columns that were dropped are zero."""
        kept = tuple(size // self.window * self.window for size in grid)
        maps = F.fold(reduced.tokens.transpose(1, 2), kept, self.window, stride=self.window)
        maps = F.pad(maps, (0, grid[1] - kept[1], 0, grid[0] - kept[0]))
        return maps.flatten(2).transpose(1, 2)


class STF(Reducer):
    """Spatial token fusion: 2 x 2 windows become one token through Linear 4C -> 16C, GELU, Linear 16C -> D.

    Args:
        channels: C.
        dim: D, the width of the language model.
        upstream: see `Fold`.
    """

    kind = "fold"
    learned = True

    def __init__(self, channels: int, dim: int, upstream: bool = False) -> None:
        super().__init__()
        self.fold = Fold(2, upstream)
        self.projector = nn.Sequential(nn.Linear(4 * channels, 16 * channels), nn.GELU(), nn.Linear(16 * channels, dim))

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, H W / 4, D) in raster order of the windows."""
        folded = self.fold.reduce(tokens, grid)
        return Reduced(self.projector(folded.tokens), folded.lengths, folded.assignment)


class MBTF(Reducer):
    """Multi-block token fusion, then STF: the channels of several layers are fused to one token per position.

    Args:
        channels: C of each layer.
        dim: D, the width of the language model.
        layers: number of layers that are concatenated.
        upstream: see `Fold`.
    """

    kind = "fold"
    learned = True

    def __init__(self, channels: int, dim: int, layers: int = len(CLIP_LAYERS), upstream: bool = False) -> None:
        super().__init__()
        hidden = layers * channels // 2
        self.crosslayer = nn.Sequential(nn.Linear(layers * channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.stf = STF(channels, dim, upstream)

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, H W / 4, D).

        Args:
            tokens: (B, N, layers * C) of several layers. See `concatenate_layers`.
            grid: (height, width) of the grid.
            saliency: not used.
            keys: not used.
        """
        check_tokens(tokens, grid)
        return self.stf.reduce(self.crosslayer(tokens), grid)


def concatenate_layers(hidden_states: Tensor | Sequence[Tensor], layers: Sequence[int] = CLIP_LAYERS) -> Tensor:
    """Return the patches of several layers, concatenated on the channels.

    Args:
        hidden_states: one (B, 1 + N, C) per layer, class token first; index 0 is the output of the embedding.
        layers: the layers in the order of their channels.

    Returns:
        (B, N, layers * C).

    Raises:
        SmaltiError: a layer does not exist.
    """
    if max(layers) >= len(hidden_states):
        raise SmaltiError(
            f"There are {len(hidden_states)} hidden states, but layer {max(layers)} is requested: pass layers of this "
            "network."
        )
    return torch.cat([hidden_states[layer][:, 1:] for layer in layers], dim=-1)
