"""Normalisation. Shapes: B batch, C channels, H, W positions, Z channels of the latent."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.activation_checkpointing import CheckpointedBlock
from smalti.tokenizers.layers.convolution import convolve, per_frame
from smalti.tokenizers.models.onevae.causal_conv import CausalConv3d
from smalti.tokenizers.models.onevae.resampling import Downsample, Upsample


class RMSNorm(nn.Module):
    """Each position scaled to a length of sqrt(C) over its channels, times a scale of each channel (arXiv 1910.07467).

        y = x / max(|x|, 1e-6) * sqrt(C) * gamma

    Unlike a group norm it sees no other position, so a clip can be coded in chunks.

    Args:
        channels: C.
        axes: of a position: 2 for images, 3 for videos.
    """

    def __init__(self, channels: int, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to the same."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-6)
        return x * (x.shape[1] ** 0.5 / length) * self.gamma


Strides = list[list[int]]
"""[time, space] of each change of resolution, from pixels to positions; each 1 or 2."""


class CausalResidualBlock(CheckpointedBlock):
    """Norm, swish, causal convolution, twice, beside a shortcut, which is a convolution where the channels change.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        norm: False: no norms.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: bool) -> None:
        super().__init__()
        self.norm1 = norm_or_identity(in_channels, norm)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = norm_or_identity(out_channels, norm)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        same = in_channels == out_channels
        self.shortcut = None if same else nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """(B, in_channels, T, H, W) to (B, out_channels, T, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)), state)
        h = self.conv2(F.silu(self.norm2(h)), state)
        return (x if self.shortcut is None else convolve(self.shortcut, x)) + h


class FrameAttention(nn.Module):
    """Single-head attention over the positions of each frame, beside the input.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """(B, C, T, H, W) to the same."""
        return x + per_frame(self._attend, x)

    def _attend(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        qkv = self.to_qkv(self.norm(images)).flatten(2).transpose(1, 2)  # (B T, H W, 3 C)
        q, k, v = (part.unsqueeze(1) for part in qkv.chunk(3, dim=-1))
        seen = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return self.proj(seen.transpose(1, 2).unflatten(2, (height, width)))


def norm_or_identity(channels: int, norm: bool) -> nn.Module:
    return RMSNorm(channels) if norm else nn.Identity()


def middle_blocks(channels: int, norm: bool) -> nn.ModuleList:
    first, last = (CausalResidualBlock(channels, channels, norm) for _ in range(2))
    return nn.ModuleList([first, FrameAttention(channels), last])


def run_layers(layers: Iterable[nn.Module], x: Tensor, state: StreamState) -> Tensor:
    for layer in layers:
        x = layer(x, state)
    return x


def level_widths(
    channels: int, multipliers: list[int] | None, strides: Strides | None, blocks: int, first_frame: bool
) -> tuple[list[int], Strides]:
    """The channels of each level and the strides between them, Wan2.1's where they are left out.

    Raises:
        SmaltiError: arguments that make no network.
    """
    multipliers = [1, 2, 4, 4] if multipliers is None else multipliers
    strides = [[1, 2], [2, 2], [2, 2]] if strides is None else strides
    if channels < 1 or blocks < 1 or not multipliers or min(multipliers) < 1:
        raise SmaltiError(
            f"channels {channels}, blocks {blocks} and each of multipliers {multipliers} must be at least 1."
        )
    if len(strides) != len(multipliers) - 1 or any(len(pair) != 2 or not {*pair} <= {1, 2} for pair in strides):
        raise SmaltiError(
            f"strides {strides} must hold a pair [time, space] of ones and twos between each two of the "
            f"{len(multipliers)} multipliers."
        )
    if first_frame and not (strides and strides[-1][1] == 2):
        raise SmaltiError(f"first_frame needs the last of the strides {strides} to halve space: give it [.., 2].")
    return [channels * multiplier for multiplier in multipliers], strides


@torch.no_grad()
def init_weights(network: nn.Module) -> None:
    """Fresh weights: a network of images, frame by frame, that keeps a signal's variance, with small residual branches.

    The published networks start from another's weights. PyTorch's default shrinks a signal to a third at each convolution.
    And a causal convolution over three frames sees zeros before the clip, so that its first frames and its images would be
    fainter than what follows: the past starts with weights of zero (as in 3-D networks that are inflated from 2-D ones,
    MAGVIT-v2, arXiv 2310.05737), fewer frames as the mean of two, and more frames as each of them twice.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            if isinstance(module, CausalConv3d):
                nn.init.zeros_(module.weight)
                nn.init.kaiming_normal_(module.weight[:, :, -1], nonlinearity="linear")
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, CausalResidualBlock):
            module.conv2.weight.mul_(0.2)
        elif isinstance(module, FrameAttention):
            module.proj.weight.mul_(0.2)
        elif isinstance(module, (Downsample, Upsample)):
            module.start_plain()


def first_index(layers: nn.ModuleList, kind: type[nn.Module]) -> int:
    return next(i for i, layer in enumerate(layers) if isinstance(layer, kind))


def last_index(layers: nn.ModuleList, kind: type[nn.Module]) -> int:
    return max(i for i, layer in enumerate(layers) if isinstance(layer, kind))
