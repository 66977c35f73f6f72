"""The blocks of LTX-Video's networks (arXiv 2501.00103).

Each takes (B, C, T, H, W) and what the pass shares; see `lookahead` for how many frames one gives in a stream.

Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.layers.denoising import InjectedNoise, Pass, TimeEmbedding, modulations
from smalti.tokenizers.layers.lookahead import EdgeConv3d, Padding, delayed
from smalti.tokenizers.layers.norm import pixel_norm
from smalti.tokenizers.layers.recompute import Recomputed
from smalti.tokenizers.layers.resample import blocks_to_channels, channels_to_blocks

Stride = tuple[int, int, int]


def activated(x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    """Pixel norm, then (1 + scale) and shift where there are any (B, C, 1, 1, 1), then swish."""
    x = pixel_norm(x)
    if shift is not None and scale is not None:
        x = torch.addcmul(shift.to(x.dtype), x, (1 + scale).to(x.dtype))
    # In place where nobody wants the normed x back for its gradient.
    return F.silu(x, inplace=not torch.is_grad_enabled())


class PixelNormBlock(Recomputed):
    """Pixel norm, swish, convolution, twice, beside a shortcut.

        x -> norm -> [scale, shift by time] -> swish -> conv3 -> [noise], twice, -> + shortcut(x)

    Where the channels change, the shortcut is a layer norm over channels and a 1x1x1 convolution.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        causal: see `EdgeConv3d`.
        padding: see `EdgeConv3d`.
        timed: scale and shift by the time; not where the channels change.
        noise_factor: see `InjectedNoise`; None: it adds no noise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        causal: bool,
        padding: Padding,
        timed: bool = False,
        noise_factor: int | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = EdgeConv3d(in_channels, out_channels, causal=causal, padding=padding)
        self.conv2 = EdgeConv3d(out_channels, out_channels, causal=causal, padding=padding)
        self.noise1 = None if noise_factor is None else InjectedNoise(out_channels, noise_factor)
        self.noise2 = None if noise_factor is None else InjectedNoise(out_channels, noise_factor)
        self.table = nn.Parameter(torch.zeros(4, in_channels)) if timed else None
        same = in_channels == out_channels
        self.shortcut_norm = None if same else nn.LayerNorm(in_channels, eps=1e-6)
        self.shortcut = None if same else nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, step: Pass, embedding: Tensor | None = None) -> Tensor:
        """(B, in_channels, T, H, W), with the time's (B, 4 in_channels), to (B, out_channels, T, H, W)."""
        shift1 = scale1 = shift2 = scale2 = None
        if self.table is not None and embedding is not None:
            shift1, scale1, shift2, scale2 = modulations(self.table, embedding)
        h = self._noisy(self.noise1, self.conv1(activated(x, shift1, scale1), step.state), step)
        h = self._noisy(self.noise2, self.conv2(activated(h, shift2, scale2), step.state), step)
        return h + delayed(self._beside(x), h.shape[2], self, step.state)

    @staticmethod
    def _noisy(layer: InjectedNoise | None, x: Tensor, step: Pass) -> Tensor:
        return x if layer is None else layer(x, step.noise[layer])

    def _beside(self, x: Tensor) -> Tensor:
        if self.shortcut is None or self.shortcut_norm is None:
            return x
        # As a linear layer: the norm has the channels last, and a chunk may have no frames, which convolutions refuse.
        normed = self.shortcut_norm(x.movedim(1, -1))
        return F.linear(normed, self.shortcut.weight.flatten(1), self.shortcut.bias).movedim(-1, 1)


class ResidualStage(nn.Module):
    """Residual blocks of one width in a row, which share one embedding of the time.

    Args:
        channels: C.
        count: blocks.
        causal: see `EdgeConv3d`.
        padding: see `EdgeConv3d`.
        timed: scale and shift by the time.
        noise_factor: see `InjectedNoise`; None: the blocks add no noise.
    """

    def __init__(
        self,
        channels: int,
        count: int,
        *,
        causal: bool,
        padding: Padding,
        timed: bool = False,
        noise_factor: int | None = None,
    ) -> None:
        super().__init__()
        self.time = TimeEmbedding(4 * channels) if timed else None
        self.blocks = nn.ModuleList(
            PixelNormBlock(channels, channels, causal=causal, padding=padding, timed=timed, noise_factor=noise_factor)
            for _ in range(count)
        )

    def forward(self, x: Tensor, step: Pass) -> Tensor:
        """(B, C, T, H, W) to the same."""
        embedding = None if self.time is None or step.time is None else self.time(step.time)
        for block in self.blocks:
            x = block(x, step, embedding)
        return x


class StridedDown(nn.Module):
    """Fewer positions by a causal convolution of stride 2.

    Args:
        channels: C.
        stride: of (T, H, W).
        padding: see `EdgeConv3d`.
    """

    def __init__(self, channels: int, stride: Stride, *, padding: Padding) -> None:
        super().__init__()
        self.strided = EdgeConv3d(channels, channels, causal=True, stride=stride, padding=padding)

    def forward(self, x: Tensor, step: Pass) -> Tensor:
        """(B, C, T, H, W) to (B, C, t, h, w); of a clip's first chunk 1 + 2 k frames become 1 + k where time is halved."""
        return self.strided(x, step.state)


class FoldedDown(nn.Module):
    """Fewer positions, more channels: blocks of a causal convolution as channels, plus means of the input's blocks.

        x -> [first frame twice, where time is halved] -> conv3 -> blocks to channels -> + means over groups of channels

    Args:
        in_channels: channels of x.
        out_channels: of the result; a multiple of the positions of a block, which divides in_channels times those.
        stride: of (T, H, W), the block.
        padding: see `EdgeConv3d`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Stride, *, padding: Padding) -> None:
        super().__init__()
        self.stride = stride
        self.out_channels = out_channels
        self.conv = EdgeConv3d(in_channels, out_channels // math.prod(stride), causal=True, padding=padding)

    def forward(self, x: Tensor, step: Pass) -> Tensor:
        """(B, in_channels, T, H, W) to (B, out_channels, t, h, w); a clip starts with 1 + 2 k where time is halved."""
        if self.stride[0] == 2 and step.state.begins(self):
            x = torch.cat([x[:, :, :1], x], dim=2)
        means = blocks_to_channels(x, self.stride).unflatten(1, (self.out_channels, -1)).mean(2)
        return blocks_to_channels(self.conv(x, step.state), self.stride) + means


class UnfoldedUp(nn.Module):
    """More positions: channels of a convolution as blocks of positions; a clip's first frame stays one where time doubles.

    Args:
        channels: C of the input.
        stride: of (T, H, W), the block.
        multiplier: the result has C / multiplier channels.
        residual: add the input's channels as blocks, repeated up to the channels of the result.
        causal: see `EdgeConv3d`.
        padding: see `EdgeConv3d`.
    """

    def __init__(
        self, channels: int, stride: Stride, *, multiplier: int, residual: bool, causal: bool, padding: Padding
    ) -> None:
        super().__init__()
        self.stride = stride
        self.repeats = math.prod(stride) // multiplier if residual else 0
        self.conv = EdgeConv3d(channels, math.prod(stride) * channels // multiplier, causal=causal, padding=padding)

    def forward(self, x: Tensor, step: Pass) -> Tensor:
        """(B, C, T, H, W) to (B, C / multiplier, ...), with 2 T - 1 frames of a clip's beginning where time doubles."""
        h = channels_to_blocks(self.conv(x, step.state), self.stride)
        if self.repeats:
            beside = delayed(x, h.shape[2] // self.stride[0], self, step.state)
            h = h + channels_to_blocks(beside, self.stride).repeat(1, self.repeats, 1, 1, 1)
        if self.stride[0] == 2 and h.shape[2] and step.state.begins(self):
            h = h[:, :, 1:]
        return h


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Fresh weights of an encoder or a decoder, which starts near a linear map and so learns from the first steps on.

    - Convolutions keep a signal's variance (PyTorch's default shrinks it to a third), and biases are zero.
    - Residual branches, and convolutions beside a path that folds or unfolds, start small.
    - The first and the last convolution see little but their own position.
    - The first has biases of one: pixel norm takes the magnitude away, and with it brightness and contrast; beside a
      constant they survive, and norm and swish are nearly linear.

    Args:
        network: changed in place; its first and last convolutions are `conv_in` and `conv_out`.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, PixelNormBlock):
            module.conv2.conv.weight.mul_(0.2)
        elif isinstance(module, FoldedDown) or (isinstance(module, UnfoldedUp) and module.repeats):
            module.conv.conv.weight.mul_(0.3)
    first, last = cast(EdgeConv3d, network.conv_in), cast(EdgeConv3d, network.conv_out)
    for edge in (first, last):
        weight = edge.conv.weight
        own = weight[:, :, -1 if edge.causal else 1, 1, 1]
        weight.mul_(0.1)
        nn.init.normal_(own, std=weight.shape[1] ** -0.5)
    assert first.conv.bias is not None
    nn.init.ones_(first.conv.bias)
