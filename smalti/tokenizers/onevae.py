"""Causal video encoder and decoder of Wan2.1 (arXiv 2503.20314) and OneVAE (arXiv 2508.09857), as lists that are data.

A clip of 1 + k s frames becomes 1 + k latents. Frame 0 is coded alone, so that an image is a clip of one frame, and no
frame is seen by those before it, so that a clip can be coded in chunks. With first-frame strengthening (OneVAE, section
3) the first frame has a grid of its own, of twice the rows and columns.

Shapes: B batch, T frames, H, W pixels; t, h, w latent positions; s, f the strides in time and space; C channels, Z latent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers.codec import Decoder, Encoder, State
from smalti.tokenizers.layers.causal import CausalConv3d, Downsample, StridedConv2d, Upsample, convolve, per_frame
from smalti.tokenizers.layers.norm import ChannelNorm
from smalti.tokenizers.layers.recompute import Recomputed

Strides = list[list[int]]
"""[time, space] of each change of resolution, from pixels to positions; each 1 or 2."""


class CausalResidualBlock(Recomputed):
    """Norm, swish, causal convolution, twice, beside a shortcut, which is a convolution where the channels change.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        norm: False: no norms.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: bool) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels, norm)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = _norm(out_channels, norm)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        same = in_channels == out_channels
        self.shortcut = None if same else nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, state: State) -> Tensor:
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
        self.norm = ChannelNorm(channels, axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, state: State) -> Tensor:
        """(B, C, T, H, W) to the same."""
        return x + per_frame(self._attend, x)

    def _attend(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        qkv = self.to_qkv(self.norm(images)).flatten(2).transpose(1, 2)  # (B T, H W, 3 C)
        q, k, v = (part.unsqueeze(1) for part in qkv.chunk(3, dim=-1))
        seen = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return self.proj(seen.transpose(1, 2).unflatten(2, (height, width)))


def _norm(channels: int, norm: bool) -> nn.Module:
    return ChannelNorm(channels) if norm else nn.Identity()


def _middle(channels: int, norm: bool) -> nn.ModuleList:
    first, last = (CausalResidualBlock(channels, channels, norm) for _ in range(2))
    return nn.ModuleList([first, FrameAttention(channels), last])


def _run(layers: Iterable[nn.Module], x: Tensor, state: State) -> Tensor:
    for layer in layers:
        x = layer(x, state)
    return x


def _levels(
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
def _initialise(network: nn.Module) -> None:
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


class OneVAEEncoder(Encoder):
    """Pixels to one grid, or with `first_frame` to two.

        causal conv3 -> [residual blocks -> down-sampling] a level, the last without it
          -> residual, attention within each frame, residual -> norm -> swish -> causal conv3 -> conv1

    With `first_frame`, the first frame leaves before the last down-sampling and runs through the layers after it alone: a
    grid (B, C, 1, 2 h, 2 w), which stands in the place of the ordinary grid's first latent.

    Args:
        out_dim: C, channels of a position: 2 Z where a KL follows, its means and log-variances.
        channels: width that the multipliers multiply.
        multipliers: one a level, from pixels to positions.
        strides: [time, space] of the down-sampling between each two levels, each 1 or 2.
        blocks: residual blocks a level.
        first_frame: give the first frame a grid of its own; the last of `strides` must halve space.
        norm: False leaves the norms out but for the attention's, which suits narrow networks: they have few channels to
            keep in what a norm takes away.

    Raises:
        SmaltiError: arguments that make no network.
    """

    def __init__(
        self,
        out_dim: int,
        channels: int = 96,
        multipliers: list[int] | None = None,
        strides: Strides | None = None,
        blocks: int = 2,
        first_frame: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        widths, strides = _levels(channels, multipliers, strides, blocks, first_frame)
        self.first_frame = first_frame
        self.out_dim = out_dim
        space = math.prod(pair[1] for pair in strides)
        self.stride = (math.prod(pair[0] for pair in strides), space, space)
        self.conv_in = CausalConv3d(3, channels)
        self.layers = nn.ModuleList()
        width = channels
        for level, wider in enumerate(widths):
            for _ in range(blocks):
                self.layers.append(CausalResidualBlock(width, wider, norm))
                width = wider
            if level < len(strides):
                self.layers.append(Downsample(width, *strides[level]))
        self.middle = _middle(width, norm)
        self.norm_out = _norm(width, norm)
        self.conv_out = CausalConv3d(width, out_dim)
        self.head = nn.Conv3d(out_dim, out_dim, 1)
        _initialise(self)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, ...]:
        """(B, 3, 1 + k s, H, W) in [-1, 1] to one grid (B, C, 1 + k, h, w), or to two.

        With `first_frame` they are (B, C, 1, 2 h, 2 w) and (B, C, k, h, w).

        In a stream, chunks after the first have k s frames and give k latents. Grids without positions are left out.
        """
        state = State(last=True) if state is None else state
        begins = state.begins(self)
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last_3d), state)
        if not self.first_frame:
            return (self._finish(_run(self.layers, x, state), state),)
        split = _last_index(self.layers, Downsample)
        x = _run(self.layers[:split], x, state)
        grids = (self._strengthened(x[:, :, :1], split),) if begins else ()
        if x.shape[2] == 1 and begins and state.last:
            return grids  # an image: nothing follows for which the ordinary latent would have to be seen
        h = self._finish(_run(self.layers[split:], x, state), state)
        h = h[:, :, 1:] if begins else h
        return (*grids, h) if h.shape[2] else grids

    def _strengthened(self, first: Tensor, split: int) -> Tensor:
        """The first frame's own grid: the same layers without the last down-sampling, as if there were no other frame."""
        alone = State(last=True)
        return self._finish(_run(self.layers[split + 1 :], first, alone), alone)

    def _finish(self, x: Tensor, state: State) -> Tensor:
        x = _run(self.middle, x, state)
        return convolve(self.head, self.conv_out(F.silu(self.norm_out(x)), state))


class OneVAEDecoder(Decoder):
    """The encoder's grids to pixels.

        conv1 -> causal conv3 -> residual, attention within each frame, residual
          -> [residual blocks -> up-sampling] a level, the last without it -> norm -> swish -> causal conv3

    With `first_frame`, a convolution of stride 2 makes the first frame's grid the latent 0 of the ordinary one, whose
    frames look back on it; besides, it runs through the layers before the first up-sampling by itself, and takes frame
    0's place after it.

    Args:
        in_dim: Z, channels of a position.
        channels: width that the multipliers multiply.
        multipliers: one a level, from pixels to positions (run from the last to the first), as the encoder's.
        strides: as the encoder's.
        blocks: as the encoder's; a level of the decoder has one more.
        first_frame: as the encoder's.
        norm: as the encoder's.

    Raises:
        SmaltiError: arguments that make no network.
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 96,
        multipliers: list[int] | None = None,
        strides: Strides | None = None,
        blocks: int = 2,
        first_frame: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        widths, strides = _levels(channels, multipliers, strides, blocks, first_frame)
        self.in_dim = in_dim
        self.first_frame = first_frame
        width = widths[-1]
        self.head = nn.Conv3d(in_dim, in_dim, 1)
        self.conv_in = CausalConv3d(in_dim, width)
        self.middle = _middle(width, norm)
        self.layers = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for _ in range(blocks + 1):
                self.layers.append(CausalResidualBlock(width, widths[level], norm))
                width = widths[level]
            if level:
                self.layers.append(Upsample(width, *strides[level - 1]))
                width //= strides[level - 1][1]
        if first_frame:
            self.first_to_latent = StridedConv2d(in_dim)
            self.first_to_frame = nn.Conv2d(widths[-1], widths[-1] // 2, 1)
        self.norm_out = _norm(width, norm)
        self.conv_out = CausalConv3d(width, 3)
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
        """The encoder's grids to (B, 3, 1 + k s, f h, f w); in a stream, k latents after the first chunk are k s frames."""
        state = State(last=True) if state is None else state
        begins = state.begins(self)
        if not (self.first_frame and begins):
            (grid,) = maps
            return self._finish(self.layers, self._deep(convolve(self.head, grid), state), state)
        first, *rest = maps
        split = _first_index(self.layers, Upsample)
        shallow = self._alone(first, split)
        if rest or not state.last:
            latents = torch.cat(
                [per_frame(self.first_to_latent, first), *(convolve(self.head, grid) for grid in rest)], dim=2
            )
            h = _run(self.layers[: split + 1], self._deep(latents, state), state)
            shallow = torch.cat([shallow, h[:, :, 1:]], dim=2)
        return self._finish(self.layers[split + 1 :], shallow, state)

    def _alone(self, first: Tensor, split: int) -> Tensor:
        """The first frame's grid (B, Z, 1, 2 h, 2 w) where frame 0 stands after the first up-sampling."""
        alone = State(last=True)
        return per_frame(self.first_to_frame, _run(self.layers[:split], self._deep(first, alone), alone))

    def _deep(self, z: Tensor, state: State) -> Tensor:
        z = z.contiguous(memory_format=torch.channels_last_3d)
        return _run(self.middle, self.conv_in(z, state), state)

    def _finish(self, layers: nn.ModuleList, x: Tensor, state: State) -> Tensor:
        x = _run(layers, x, state)
        return self.conv_out(F.silu(self.norm_out(x)), state)


def _first_index(layers: nn.ModuleList, kind: type[nn.Module]) -> int:
    return next(i for i, layer in enumerate(layers) if isinstance(layer, kind))


def _last_index(layers: nn.ModuleList, kind: type[nn.Module]) -> int:
    return max(i for i, layer in enumerate(layers) if isinstance(layer, kind))
