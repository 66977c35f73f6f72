"""Residual blocks and attention of Cosmos' networks. Shapes: B batch, C channels, T frames, H, W positions."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.activation_checkpointing import CheckpointedBlock
from smalti.tokenizers.models.cosmos.layers import FrameNorm, make_conv, make_pointwise


class ResidualBlock(CheckpointedBlock):
    """Two convolutions with a residual connection.

        x -> norm -> SiLU -> conv -> norm -> SiLU -> conv -> + shortcut(x)

    The shortcut is a convolution of size 1 if the number of channels changes, else the identity.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        video: whether the block takes clips, or else images.
    """

    def __init__(self, in_channels: int, out_channels: int, video: bool) -> None:
        super().__init__()
        self.norm1 = FrameNorm(in_channels, video)
        self.conv1 = make_conv(in_channels, out_channels, video)
        self.norm2 = FrameNorm(out_channels, video)
        self.conv2 = make_conv(out_channels, out_channels, video)
        same = in_channels == out_channels
        self.shortcut = None if same else make_pointwise(in_channels, out_channels, video)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, in_channels, ...) to (B, out_channels, ...)."""
        h = self.conv1(F.silu(self.norm1(x)), state)
        h = self.conv2(F.silu(self.norm2(h)), state)
        return (x if self.shortcut is None else self.shortcut(x)) + h


class Attention(nn.Module):
    """Single-head self-attention with a residual connection over the positions of each image or frame.

    Args:
        channels: number of channels C.
        video: whether the layer takes clips, or else images.
    """

    def __init__(self, channels: int, video: bool) -> None:
        super().__init__()
        self.norm = FrameNorm(channels, video)
        self.q, self.k, self.v, self.proj = (make_pointwise(channels, channels, video) for _ in range(4))

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, C, H, W) or (B, C, T, H, W) to the same shape."""
        h = self.norm(x)
        q, k, v = (layer(h).movedim(1, -1).flatten(-3, -2) for layer in (self.q, self.k, self.v))  # (B, [T,] H W, C)
        attended = _attend(q, k, v)
        return x + self.proj(attended.unflatten(-2, x.shape[-2:]).movedim(-1, 1))


class TemporalAttention(Attention):
    """Causal single-head self-attention over the frames of each position: a frame attends to itself and all before it.

    In a stream, the keys and values of all earlier frames are stored.

    Args:
        channels: number of channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, video=True)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, C, T, H, W) to the same shape."""
        h = self.norm(x)
        q, k, v = (layer(h).permute(0, 3, 4, 2, 1).flatten(0, 2) for layer in (self.q, self.k, self.v))  # (B H W, T, C)
        before = state.load(self)
        if before is not None:
            earlier_k, earlier_v = before.chunk(2, dim=-1)
            k, v = torch.cat([earlier_k, k], dim=1), torch.cat([earlier_v, v], dim=1)
        state.store(self, torch.cat([k, v], dim=-1))
        if before is None:
            attended = _attend(q, k, v, is_causal=True)
        else:
            visible = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=x.device).tril(before.shape[1])
            attended = _attend(q, k, v, attn_mask=visible)
        positions = (x.shape[0], x.shape[3], x.shape[4])
        return x + self.proj(attended.unflatten(0, positions).permute(0, 4, 3, 1, 2))


def _attend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """Return attention over the second to last axis. ONNX needs four axes."""
    if q.ndim == 4:
        return F.scaled_dot_product_attention(q, k, v, **options)
    return F.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), **options).squeeze(1)


class MiddleBlocks(nn.Module):
    """The layers closest to the latent: a residual block, attention (for clips also over time), and a residual block."""

    def __init__(self, channels: int, video: bool) -> None:
        super().__init__()
        self.first = ResidualBlock(channels, channels, video)
        self.attention = Attention(channels, video)
        self.temporal_attention = TemporalAttention(channels) if video else None
        self.last = ResidualBlock(channels, channels, video)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, C, ...) to the same shape."""
        x = self.attention(self.first(x, state), state)
        if self.temporal_attention is not None:
            x = self.temporal_attention(x, state)
        return self.last(x, state)


class Level(nn.Module):
    """Residual blocks at one resolution, and what leads to the next one.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        blocks: number of residual blocks.
        video: whether the level takes clips, or else images.
        resample: downsampling or upsampling; None: the resolution remains.
    """

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, video: bool, resample: nn.Module | None
    ) -> None:
        super().__init__()
        widths = [in_channels, *[out_channels] * blocks]
        self.blocks = nn.ModuleList(ResidualBlock(a, b, video) for a, b in itertools.pairwise(widths))
        self.resample = resample

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, in_channels, ...) to (B, out_channels, ...) of another size."""
        for block in self.blocks:
            x = block(x, state)
        return x if self.resample is None else self.resample(x, state)
