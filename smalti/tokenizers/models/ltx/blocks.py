"""Normalisation. Shapes: B batch, C channels, H, W positions, Z channels of the latent."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.layers.activation_checkpointing import CheckpointedBlock
from smalti.tokenizers.models.ltx.block_context import BlockContext
from smalti.tokenizers.models.ltx.noise_injection import NoiseInjection
from smalti.tokenizers.models.ltx.replication_pad_conv import Padding, ReplicationPadConv3d, delay
from smalti.tokenizers.models.ltx.space_to_depth import depth_to_space, space_to_depth
from smalti.tokenizers.models.ltx.timestep import TimestepEmbedding, modulation


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Each position divided by the root mean square of its channels, without parameters (arXiv 1710.10196, section 4.2).

        y = x / sqrt(mean over channels of x^2 + eps)

    Args:
        x: (B, C, ...).
        eps: under the root.
    """
    # One pass over x for the length, in float32 at least, and one to divide; a mean of squares would write them all first.
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return x * torch.rsqrt(length.square() / x.shape[1] + eps).to(x.dtype)


Stride = tuple[int, int, int]


def norm_and_activate(x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    """Pixel norm, then (1 + scale) and shift where there are any (B, C, 1, 1, 1), then swish."""
    x = pixel_norm(x)
    if shift is not None and scale is not None:
        x = torch.addcmul(shift.to(x.dtype), x, (1 + scale).to(x.dtype))
    # In place where nobody wants the normed x back for its gradient.
    return F.silu(x, inplace=not torch.is_grad_enabled())


class PixelNormBlock(CheckpointedBlock):
    """Pixel norm, swish, convolution, twice, beside a shortcut.

        x -> norm -> [scale, shift by time] -> swish -> conv3 -> [noise], twice, -> + shortcut(x)

    Where the channels change, the shortcut is a layer norm over channels and a 1x1x1 convolution.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        causal: see `ReplicationPadConv3d`.
        padding: see `ReplicationPadConv3d`.
        timed: scale and shift by the time; not where the channels change.
        noise_factor: see `NoiseInjection`; None: it adds no noise.
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
        self.conv1 = ReplicationPadConv3d(in_channels, out_channels, causal=causal, padding=padding)
        self.conv2 = ReplicationPadConv3d(out_channels, out_channels, causal=causal, padding=padding)
        self.noise1 = None if noise_factor is None else NoiseInjection(out_channels, noise_factor)
        self.noise2 = None if noise_factor is None else NoiseInjection(out_channels, noise_factor)
        self.table = nn.Parameter(torch.zeros(4, in_channels)) if timed else None
        same = in_channels == out_channels
        self.shortcut_norm = None if same else nn.LayerNorm(in_channels, eps=1e-6)
        self.shortcut = None if same else nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, context: BlockContext, embedding: Tensor | None = None) -> Tensor:
        """(B, in_channels, T, H, W), with the time's (B, 4 in_channels), to (B, out_channels, T, H, W)."""
        shift1 = scale1 = shift2 = scale2 = None
        if self.table is not None and embedding is not None:
            shift1, scale1, shift2, scale2 = modulation(self.table, embedding)
        h = self._noisy(self.noise1, self.conv1(norm_and_activate(x, shift1, scale1), context.state), context)
        h = self._noisy(self.noise2, self.conv2(norm_and_activate(h, shift2, scale2), context.state), context)
        return h + delay(self._beside(x), h.shape[2], self, context.state)

    @staticmethod
    def _noisy(layer: NoiseInjection | None, x: Tensor, context: BlockContext) -> Tensor:
        return x if layer is None else layer(x, context.noise[layer])

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
        causal: see `ReplicationPadConv3d`.
        padding: see `ReplicationPadConv3d`.
        timed: scale and shift by the time.
        noise_factor: see `NoiseInjection`; None: the blocks add no noise.
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
        self.time = TimestepEmbedding(4 * channels) if timed else None
        self.blocks = nn.ModuleList(
            PixelNormBlock(channels, channels, causal=causal, padding=padding, timed=timed, noise_factor=noise_factor)
            for _ in range(count)
        )

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """(B, C, T, H, W) to the same."""
        embedding = None if self.time is None or context.time is None else self.time(context.time)
        for block in self.blocks:
            x = block(x, context, embedding)
        return x


class StridedDownsample(nn.Module):
    """Fewer positions by a causal convolution of stride 2.

    Args:
        channels: C.
        stride: of (T, H, W).
        padding: see `ReplicationPadConv3d`.
    """

    def __init__(self, channels: int, stride: Stride, *, padding: Padding) -> None:
        super().__init__()
        self.strided = ReplicationPadConv3d(channels, channels, causal=True, stride=stride, padding=padding)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """(B, C, T, H, W) to (B, C, t, h, w); of a clip's first chunk 1 + 2 k frames become 1 + k where time is halved."""
        return self.strided(x, context.state)


class SpaceToDepthDownsample(nn.Module):
    """Fewer positions, more channels: blocks of a causal convolution as channels, plus means of the input's blocks.

        x -> [first frame twice, where time is halved] -> conv3 -> blocks to channels -> + means over groups of channels

    Args:
        in_channels: channels of x.
        out_channels: of the result; a multiple of the positions of a block, which divides in_channels times those.
        stride: of (T, H, W), the block.
        padding: see `ReplicationPadConv3d`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Stride, *, padding: Padding) -> None:
        super().__init__()
        self.stride = stride
        self.out_channels = out_channels
        self.conv = ReplicationPadConv3d(in_channels, out_channels // math.prod(stride), causal=True, padding=padding)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """(B, in_channels, T, H, W) to (B, out_channels, t, h, w); a clip starts with 1 + 2 k where time is halved."""
        if self.stride[0] == 2 and context.state.is_first_chunk(self):
            x = torch.cat([x[:, :, :1], x], dim=2)
        means = space_to_depth(x, self.stride).unflatten(1, (self.out_channels, -1)).mean(2)
        return space_to_depth(self.conv(x, context.state), self.stride) + means


class DepthToSpaceUpsample(nn.Module):
    """More positions: channels of a convolution as blocks of positions; a clip's first frame stays one where time doubles.

    Args:
        channels: C of the input.
        stride: of (T, H, W), the block.
        multiplier: the result has C / multiplier channels.
        residual: add the input's channels as blocks, repeated up to the channels of the result.
        causal: see `ReplicationPadConv3d`.
        padding: see `ReplicationPadConv3d`.
    """

    def __init__(
        self, channels: int, stride: Stride, *, multiplier: int, residual: bool, causal: bool, padding: Padding
    ) -> None:
        super().__init__()
        self.stride = stride
        self.repeats = math.prod(stride) // multiplier if residual else 0
        self.conv = ReplicationPadConv3d(channels, math.prod(stride) * channels // multiplier, causal=causal, padding=padding)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """(B, C, T, H, W) to (B, C / multiplier, ...), with 2 T - 1 frames of a clip's beginning where time doubles."""
        h = depth_to_space(self.conv(x, context.state), self.stride)
        if self.repeats:
            beside = delay(x, h.shape[2] // self.stride[0], self, context.state)
            h = h + depth_to_space(beside, self.stride).repeat(1, self.repeats, 1, 1, 1)
        if self.stride[0] == 2 and h.shape[2] and context.state.is_first_chunk(self):
            h = h[:, :, 1:]
        return h


@torch.no_grad()
def init_weights(network: nn.Module) -> None:
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
        elif isinstance(module, SpaceToDepthDownsample) or (isinstance(module, DepthToSpaceUpsample) and module.repeats):
            module.conv.conv.weight.mul_(0.3)
    first, last = cast(ReplicationPadConv3d, network.conv_in), cast(ReplicationPadConv3d, network.conv_out)
    for edge in (first, last):
        weight = edge.conv.weight
        own = weight[:, :, -1 if edge.causal else 1, 1, 1]
        weight.mul_(0.1)
        nn.init.normal_(own, std=weight.shape[1] ** -0.5)
    assert first.conv.bias is not None
    nn.init.ones_(first.conv.bias)
