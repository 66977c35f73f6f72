"""Convolutions over space and time that never look ahead, and go on from chunk to chunk of a clip.

Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.convolution import convolve, per_frame
from smalti.tokenizers.models.onevae.causal_conv import prepend_history


class Downsample(nn.Module):
    """Fewer rows and columns, and fewer frames, by factors of one or two each.

    Space: a convolution of stride 2, with zeros at the right and lower edge. Time: a convolution of three frames, the last
    one that went before and two new ones, of which one is made; the first frame of a clip passes alone, so that 1 + 2 k
    frames become 1 + k.

    Args:
        channels: C.
        time: 1 or 2, frames that become one.
        space: 1 or 2, rows and columns that become one.
    """

    def __init__(self, channels: int, time: int, space: int) -> None:
        super().__init__()
        self.space = StridedConv2d(channels) if space == 2 else None
        self.time = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if time == 2 else None

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """(B, C, T, H, W) to (B, C, t, H / space, W / space); of a clip's first chunk T is 1 + time k, then time k."""
        if self.space is not None:
            x = per_frame(self.space, x)
        if self.time is None:
            return x
        before = state.load(self)
        state.store(self, x[:, :, -1:])
        if before is not None:
            return convolve(self.time, torch.cat([before, x], dim=2))
        first = x[:, :, :1]
        return torch.cat([first, convolve(self.time, x)], dim=2) if x.shape[2] > 1 else first

    @torch.no_grad()
    def start_plain(self) -> None:
        """Start as the mean of two frames."""
        if self.time is not None:
            same = torch.eye(self.time.in_channels).to(self.time.weight)
            self.time.weight.copy_(torch.stack([0 * same, same / 2, same / 2], dim=2)[..., None, None])


class StridedConv2d(nn.Conv2d):
    """3 x 3 of stride 2 on images, with zeros at the right and lower edge: half the rows and columns.

    Args:
        channels: of the input and of the result.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that PyTorch gave it)
        """(B, C, H, W) to (B, C, H / 2, W / 2)."""
        return super().forward(F.pad(input, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """More frames, and more rows and columns, by factors of one or two each; where space doubles, channels halve.

    Time: a convolution of three frames to twice the channels, which are two frames; the first frame of a clip passes
    alone, and is not seen by those that follow. Space: nearest neighbours, then a convolution.

    Args:
        channels: C of the input.
        time: 1 or 2, frames that one becomes.
        space: 1 or 2, rows and columns that one becomes.
    """

    def __init__(self, channels: int, time: int, space: int) -> None:
        super().__init__()
        self.time = nn.Conv3d(channels, 2 * channels, (3, 1, 1)) if time == 2 else None
        self.space = nn.Conv2d(channels, channels // 2, 3, padding=1) if space == 2 else None

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """(B, C, t, h, w) to (B, C or C / 2, T, space h, space w), T = 1 + time (t - 1) in a clip's first chunk."""
        if self.time is not None:
            x = self._longer(self.time, x, state)
        return x if self.space is None else per_frame(self._larger, x)

    @torch.no_grad()
    def start_plain(self) -> None:
        """Start as each frame twice."""
        if self.time is not None:
            same = torch.eye(self.time.in_channels).to(self.time.weight)
            self.time.weight.zero_()[:, :, 2] = torch.cat([same, same])[..., None, None]

    def _longer(self, conv: nn.Conv3d, x: Tensor, state: StreamState) -> Tensor:
        first = x[:, :, : 1 if state.is_first_chunk(self) else 0]
        x = x[:, :, first.shape[2] :]
        seen = prepend_history(conv, x, state)
        if not x.shape[2]:
            return first
        pairs = convolve(conv, seen).unflatten(1, (2, -1))  # (B, 2, C, t, h, w)
        doubled = pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        return torch.cat([first, doubled], dim=2) if first.shape[2] else doubled

    def _larger(self, images: Tensor) -> Tensor:
        assert self.space is not None
        return self.space(F.interpolate(images, scale_factor=2, mode="nearest-exact"))
