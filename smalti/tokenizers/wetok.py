"""WeTok's encoder, decoder and generative decoder (arXiv 2508.05599), after MAGVIT-v2 (arXiv 2310.05737).

They are two-dimensional: the frames of a video are coded one by one.

Shapes: B batch, T frames, H, W pixels; h, w latent rows and columns; f = 2^(levels - 1) the stride; Z latent channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers.codec import Decoder, Encoder, State
from smalti.tokenizers.layers.noise import normal_like_frames
from smalti.tokenizers.layers.norm import AdaptiveGroupNorm, group_norm
from smalti.tokenizers.layers.resample import DepthToSpace
from smalti.tokenizers.layers.residual import ResidualBlock, residual_blocks


def _widths(channels: int, multipliers: list[int], blocks: int, groups: int | None) -> list[int]:
    """Channels of each level.

    Raises:
        SmaltiError: no level, no block, or channels that group norm cannot divide.
    """
    if not multipliers or min(multipliers) < 1 or blocks < 1:
        raise SmaltiError(f"multipliers {multipliers} and blocks {blocks} must each be at least one, and at least 1.")
    if groups is not None and (channels < 1 or groups < 1 or channels % groups):
        raise SmaltiError(f"channels is {channels}, but group norm needs a positive multiple of its {groups} groups.")
    return [channels * m for m in multipliers]


def _to_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) to (B T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def _to_video(x: Tensor, frames: int) -> Tensor:
    """(B T, C, H, W) to (B, C, T, H, W)."""
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


@torch.no_grad()
def _initialise(network: nn.Module) -> None:
    """Fresh weights that keep a signal's variance, with residual branches that start small.

    How the published models were initialised is not known to matter to them; PyTorch's default shrinks a signal to a third
    at each convolution, and a small network then takes several times as many steps to its first decibels.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.conv2.weight.mul_(0.2)


class _Down(nn.Module):
    """A level of the encoder: residual blocks, then (but for the last) half the rows and columns."""

    def __init__(self, before: int, width: int, blocks: int, groups: int | None, *, last: bool) -> None:
        super().__init__()
        self.blocks = residual_blocks(before, width, blocks, groups)
        self.downsample = nn.Identity() if last else nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class _Up(nn.Module):
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


class WeTokEncoder(Encoder):
    """Pixels to a grid of stride f = 2^(levels - 1).

        conv3 -> [residual blocks -> conv3 stride 2] a level, the last without its stride -> residual blocks
          -> norm -> swish -> conv1

    Args:
        out_dim: Z, channels of a position: groups x bits where GQ follows.
        channels: width that the multipliers multiply, a multiple of `groups`.
        multipliers: one a level, from pixels to positions; one level more than the stride has factors of two.
        blocks: residual blocks a level, and in the middle.
        groups: of all group norms; None leaves the norms out, which suits narrow networks.

    Raises:
        SmaltiError: arguments that make no network.
    """

    def __init__(
        self,
        out_dim: int,
        channels: int = 256,
        multipliers: list[int] | None = None,
        blocks: int = 4,
        groups: int | None = 32,
    ) -> None:
        super().__init__()
        multipliers = [1, 1, 2, 2, 4] if multipliers is None else multipliers
        widths = _widths(channels, multipliers, blocks, groups)
        self.out_dim = out_dim
        factor = 2 ** (len(widths) - 1)
        self.stride = (1, factor, factor)
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        befores = [channels, *widths[:-1]]
        self.levels = nn.Sequential(
            *(
                _Down(before, width, blocks, groups, last=i + 1 == len(widths))
                for i, (before, width) in enumerate(zip(befores, widths, strict=True))
            )
        )
        self.middle = residual_blocks(widths[-1], widths[-1], blocks, groups)
        self.norm_out = group_norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], out_dim, 1)
        _initialise(self)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, ...]:
        """(B, 3, T, H, W) in [-1, 1], H and W multiples of f, to one grid (B, Z, T, H / f, W / f)."""
        h = self.middle(self.levels(self.conv_in(_to_frames(x))))
        h = self.conv_out(F.silu(self.norm_out(h)))
        return (_to_video(h, x.shape[2]),)


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
        widths = _widths(channels, multipliers, blocks, groups)
        self.in_dim = in_dim
        self.conv_in = nn.Conv2d(self._first_dim(in_dim), widths[-1], 3, padding=1)
        self.middle = residual_blocks(widths[-1], widths[-1], blocks, groups)
        befores = [*widths[1:], widths[-1]]
        self.levels = nn.ModuleList(
            _Up(in_dim, before, width, blocks, groups, last=i == 0)
            for i, (before, width) in enumerate(zip(befores, widths, strict=True))
        )
        self.norm_out = group_norm(widths[0], groups)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)
        _initialise(self)
        with torch.no_grad():
            self.conv_out.weight.mul_(0.1)  # start near grey, not at random colours

    @property
    def final(self) -> nn.Module:
        """The last convolution."""
        return self.conv_out

    def forward(
        self, maps: tuple[Tensor, ...], generator: torch.Generator | None = None, state: State | None = None
    ) -> Tensor:
        """One grid (B, Z, T, h, w) to (B, 3, T, f h, f w)."""
        (grid,) = maps
        z = _to_frames(grid)
        h = self.middle(self.conv_in(_to_frames(self._first(grid, generator))))
        for level in reversed(self.levels):
            h = level(h, z)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return _to_video(h, grid.shape[2])

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
        return torch.cat([grid, normal_like_frames(grid, generator)], dim=1)

    def adopt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A decoder without noise becomes one that starts by ignoring it: zeros for the noise's channels.

        This is how the published second stage starts from the first (arXiv 2508.05599, section 3.3).
        """
        key = "conv_in.weight"
        narrow = weights.get(key)
        if narrow is None or narrow.shape[1] != self.in_dim:
            return weights
        return weights | {key: torch.cat([narrow, torch.zeros_like(narrow)], dim=1)}
