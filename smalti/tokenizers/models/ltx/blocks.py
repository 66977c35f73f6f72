"""Residual blocks in LTX-Video's networks. Shapes: B batch, C channels, T frames, H, W positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.layers.activation_checkpointing import CheckpointedBlock
from smalti.tokenizers.models.ltx.block_context import BlockContext
from smalti.tokenizers.models.ltx.noise_injection import NoiseInjection
from smalti.tokenizers.models.ltx.pixel_norm import norm_and_activate
from smalti.tokenizers.models.ltx.replication_pad_conv import Padding, ReplicationPadConv3d, delay
from smalti.tokenizers.models.ltx.timestep import TimestepEmbedding, modulation


class PixelNormBlock(CheckpointedBlock):
    """Two convolutions with pixel norm and a residual connection.

        x -> twice [pixel norm -> scale and shift by timestep -> SiLU -> conv 3x3x3 -> noise injection] -> + shortcut(x)

    The shortcut is a layer norm over channels and a 1x1x1 convolution if the number of channels changes, else the
    identity.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        causal: see `ReplicationPadConv3d`.
        padding: see `ReplicationPadConv3d`.
        timestep_conditioning: whether features are scaled and shifted by the timestep.
        noise_factor: `factor` of `NoiseInjection`; None: no noise is injected.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        causal: bool,
        padding: Padding,
        timestep_conditioning: bool = False,
        noise_factor: int | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = ReplicationPadConv3d(in_channels, out_channels, causal=causal, padding=padding)
        self.conv2 = ReplicationPadConv3d(out_channels, out_channels, causal=causal, padding=padding)
        self.noise1 = None if noise_factor is None else NoiseInjection(out_channels, noise_factor)
        self.noise2 = None if noise_factor is None else NoiseInjection(out_channels, noise_factor)
        self.table = nn.Parameter(torch.zeros(4, in_channels)) if timestep_conditioning else None
        same = in_channels == out_channels
        self.shortcut_norm = None if same else nn.LayerNorm(in_channels, eps=1e-6)
        self.shortcut = None if same else nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, context: BlockContext, embedding: Tensor | None = None) -> Tensor:
        """Map (B, in_channels, T, H, W) to (B, out_channels, T', H, W). A block that looks ahead delays frames in a stream.

        Args:
            x: features.
            context: state of the stream, and noise.
            embedding: (B, 4 in_channels) embedding of the timestep; None without timestep conditioning.
        """
        shift1 = scale1 = shift2 = scale2 = None
        if self.table is not None and embedding is not None:
            shift1, scale1, shift2, scale2 = modulation(self.table, embedding)
        h = self.conv1(norm_and_activate(x, shift1, scale1), context.state)
        h = self._inject_noise(self.noise1, h, context)
        h = norm_and_activate(h, shift2, scale2)  # a statement of its own: frees its input before the convolution
        h = self.conv2(h, context.state)
        h = self._inject_noise(self.noise2, h, context)
        return h + delay(self._shortcut(x), h.shape[2], self, context.state)

    @staticmethod
    def _inject_noise(layer: NoiseInjection | None, x: Tensor, context: BlockContext) -> Tensor:
        return x if layer is None else layer(x, context.noise[layer])

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.shortcut is None or self.shortcut_norm is None:
            return x
        # Apply the convolution as a linear layer: channels are last after the norm, and a chunk can have 0 frames, which
        # Conv3d rejects.
        normalized = self.shortcut_norm(x.movedim(1, -1))
        return F.linear(normalized, self.shortcut.weight.flatten(1), self.shortcut.bias).movedim(-1, 1)


class ResidualStage(nn.Module):
    """A sequence of residual blocks with the same number of channels. They share one timestep embedding.

    Args:
        channels: number of channels C.
        count: number of blocks.
        causal: see `ReplicationPadConv3d`.
        padding: see `ReplicationPadConv3d`.
        timestep_conditioning: whether features are scaled and shifted by the timestep.
        noise_factor: `factor` of `NoiseInjection`; None: no noise is injected.
    """

    def __init__(
        self,
        channels: int,
        count: int,
        *,
        causal: bool,
        padding: Padding,
        timestep_conditioning: bool = False,
        noise_factor: int | None = None,
    ) -> None:
        super().__init__()
        self.time = TimestepEmbedding(4 * channels) if timestep_conditioning else None
        self.blocks = nn.ModuleList(
            PixelNormBlock(
                channels,
                channels,
                causal=causal,
                padding=padding,
                timestep_conditioning=timestep_conditioning,
                noise_factor=noise_factor,
            )
            for _ in range(count)
        )

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """Map (B, C, T, H, W) to the same shape, except that stages that look ahead delay frames in a stream."""
        embedding = None if self.time is None or context.timestep is None else self.time(context.timestep)
        for block in self.blocks:
            x = block(x, context, embedding)
        return x
