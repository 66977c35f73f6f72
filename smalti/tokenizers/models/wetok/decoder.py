"""WeTok's encoder, decoder and generative decoder (arXiv 2508.05599), after MAGVIT-v2 (arXiv 2310.05737).

They are two-dimensional: the frames of a video are coded one by one.

Shapes: B batch, T frames, H, W pixels; h, w latent rows and columns; f = 2^(levels - 1) the stride; Z latent channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import Decoder, StreamState
from smalti.tokenizers.layers.noise import randn_per_frame
from smalti.tokenizers.models.wetok.blocks import (
    DepthToSpace,
    init_weights,
    level_widths,
    residual_blocks,
    to_frames,
    to_video,
)
from smalti.tokenizers.models.wetok.norms import AdaptiveGroupNorm, group_norm


class _UpBlock(nn.Module):
    """A level of the decoder: norm by the latent, residual blocks, then (but for the last) twice the rows and columns."""

    def __init__(
        self, latent_dim: int, before: int, width: int, blocks: int, groups: int | None, *, last: bool
    ) -> None:
        super().__init__()
        self.norm = AdaptiveGroupNorm(latent_dim, before, groups)
        self.blocks = residual_blocks(before, width, blocks, groups)
        self.upsample = nn.Identity() if last else DepthToSpace(width)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.upsample(self.blocks(self.norm(x, z)))


class WeTokDecoder(Decoder):
    """A grid to pixels.

        conv3 -> residual blocks
          -> [adaptive group norm by z -> residual blocks -> depth to space] a level, the last without its doubling
          -> norm -> swish -> conv3

    Args:
        in_dim: Z, channels of a position.
        channels: width that the multipliers multiply, a multiple of `groups`.
        multipliers: one a level, from pixels to positions (run from the last to the first), as the encoder's.
        blocks: residual blocks a level, and in the middle.
        groups: of all group norms; None leaves the norms out, which suits narrow networks.

    Raises:
        SmaltiError: arguments that make no network.
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 256,
        multipliers: list[int] | None = None,
        blocks: int = 4,
        groups: int | None = 32,
    ) -> None:
        super().__init__()
        multipliers = [1, 1, 2, 2, 4] if multipliers is None else multipliers
        widths = level_widths(channels, multipliers, blocks, groups)
        self.in_dim = in_dim
        self.conv_in = nn.Conv2d(self._first_dim(in_dim), widths[-1], 3, padding=1)
        self.middle = residual_blocks(widths[-1], widths[-1], blocks, groups)
        befores = [*widths[1:], widths[-1]]
        self.levels = nn.ModuleList(
            _UpBlock(in_dim, before, width, blocks, groups, last=i == 0)
            for i, (before, width) in enumerate(zip(befores, widths, strict=True))
        )
        self.norm_out = group_norm(widths[0], groups)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)
        init_weights(self)
        with torch.no_grad():
            self.conv_out.weight.mul_(0.1)  # start near grey, not at random colours

    @property
    def last_layer(self) -> nn.Module:
        """The last convolution."""
        return self.conv_out

    def forward(
        self, latents: tuple[Tensor, ...], generator: torch.Generator | None = None, state: StreamState | None = None
    ) -> Tensor:
        """One grid (B, Z, T, h, w) to (B, 3, T, f h, f w)."""
        (grid,) = latents
        z = to_frames(grid)
        h = self.middle(self.conv_in(to_frames(self._first(grid, generator))))
        for level in reversed(self.levels):
            h = level(h, z)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return to_video(h, grid.shape[2])

    @staticmethod
    def _first_dim(in_dim: int) -> int:
        """Channels of what the first convolution sees."""
        return in_dim

    def _first(self, grid: Tensor, generator: torch.Generator | None) -> Tensor:
        """What the first convolution sees for the latent (B, Z, T, h, w)."""
        return grid


class WeTokGenerativeDecoder(WeTokDecoder):
    """A decoder that samples: noise of z's shape stands beside z before the first convolution (arXiv 2508.05599, 3.3).

    The adaptive norms see the clean z. Trained with an adversary it draws the detail that high compression has lost,
    instead of its mean. Arguments as `WeTokDecoder`.
    """

    generative = True

    @staticmethod
    def _first_dim(in_dim: int) -> int:
        return 2 * in_dim

    def _first(self, grid: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.cat([grid, randn_per_frame(grid, generator)], dim=1)

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A decoder without noise becomes one that starts by ignoring it: zeros for the noise's channels.

        This is how the published second stage starts from the first (arXiv 2508.05599, section 3.3).
        """
        key = "conv_in.weight"
        narrow = weights.get(key)
        if narrow is None or narrow.shape[1] != self.in_dim:
            return weights
        return weights | {key: torch.cat([narrow, torch.zeros_like(narrow)], dim=1)}
