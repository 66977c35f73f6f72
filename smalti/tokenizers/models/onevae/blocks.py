"""Residual blocks and attention in OneVAE's networks. Shapes: B batch, C channels, T frames, H, W positions."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.activation_checkpointing import CheckpointedBlock
from smalti.tokenizers.layers.convolution import convolve
from smalti.tokenizers.layers.frames import apply_per_frame
from smalti.tokenizers.models.onevae.causal_conv import CausalConv3d
from smalti.tokenizers.models.onevae.norms import RMSNorm, norm_or_identity


class CausalResidualBlock(CheckpointedBlock):
    """Two causal convolutions with a residual connection.

        x -> norm -> SiLU -> conv 3x3x3 -> norm -> SiLU -> conv 3x3x3 -> + shortcut(x)

    The shortcut is a 1x1x1 convolution if the number of channels changes, else the identity.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        norm: whether the block has norms.
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
        """Map (B, in_channels, T, H, W) to (B, out_channels, T, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)), state)
        h = self.conv2(F.silu(self.norm2(h)), state)
        return (x if self.shortcut is None else convolve(self.shortcut, x)) + h


class FrameAttention(nn.Module):
    """Single-head self-attention over the positions of each frame, with a residual connection.

    Args:
        channels: number of channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, C, T, H, W) to the same shape. Frames are independent, so `state` is not used."""
        return x + apply_per_frame(self._attend, x)

    def _attend(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        qkv = self.to_qkv(self.norm(images)).flatten(2).transpose(1, 2)  # (B T, H W, 3 C)
        q, k, v = (part.unsqueeze(1) for part in qkv.chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return self.proj(attended.transpose(1, 2).unflatten(2, (height, width)))


def middle_blocks(channels: int, norm: bool) -> nn.ModuleList:
    """Return the layers closest to the latent: a residual block, attention within each frame, and a residual block."""
    first, last = (CausalResidualBlock(channels, channels, norm) for _ in range(2))
    return nn.ModuleList([first, FrameAttention(channels), last])


def run_layers(layers: Iterable[nn.Module], x: Tensor, state: StreamState) -> Tensor:
    """Apply streaming layers in sequence."""
    for layer in layers:
        x = layer(x, state)
    return x


def layer_indices(layers: nn.ModuleList, kind: type[nn.Module]) -> list[int]:
    """Return the indices of all layers of the class `kind`."""
    return [i for i, layer in enumerate(layers) if isinstance(layer, kind)]
