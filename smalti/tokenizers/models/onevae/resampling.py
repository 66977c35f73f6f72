"""Streaming downsampling and upsampling in time and space. Shapes: B batch, C channels, T frames, H, W positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.convolution import convolve
from smalti.tokenizers.layers.frames import apply_per_frame
from smalti.tokenizers.models.onevae.causal_conv import prepend_history


class Downsample(nn.Module):
    """Reduce the resolution in space and time by factors of 1 or 2 each.

    Space: a 2-D convolution with stride 2, padded with zeros at the right and bottom edge. Time: a convolution with stride
    2 over three frames, the previous one and two new ones. The first frame of a clip is passed through unchanged: 1 + 2 k
    frames become 1 + k.

    Args:
        channels: number of channels C.
        time: temporal stride, 1 or 2.
        space: spatial stride, 1 or 2.
    """

    def __init__(self, channels: int, time: int, space: int) -> None:
        super().__init__()
        self.space = StridedConv2d(channels) if space == 2 else None
        self.time = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if time == 2 else None

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, C, T, H, W) to (B, C, t, H / space, W / space).

        In the first chunk of a clip, T = 1 + k time gives t = 1 + k. In later chunks, T = k time gives t = k.
        """
        if self.space is not None:
            x = apply_per_frame(self.space, x)
        if self.time is None:
            return x
        if (
            torch.compiler.is_exporting()
        ):  # one graph for images and clips: the copies of frame 0 give an output to drop
            first = x[:, :, :1]
            return torch.cat([first, convolve(self.time, torch.cat([first, first, x], dim=2))[:, :, 1:]], dim=2)
        previous = state.load(self)
        state.store(self, x[:, :, -1:])
        if previous is not None:
            return convolve(self.time, torch.cat([previous, x], dim=2))
        first = x[:, :, :1]
        return torch.cat([first, convolve(self.time, x)], dim=2) if x.shape[2] > 1 else first

    @torch.no_grad()
    def init_identity(self) -> None:
        """Initialize the temporal convolution to the mean of the two new frames."""
        if self.time is not None:
            identity = torch.eye(self.time.in_channels).to(self.time.weight)
            self.time.weight.copy_(torch.stack([0 * identity, identity / 2, identity / 2], dim=2)[..., None, None])


class StridedConv2d(nn.Conv2d):
    """3x3 convolution with stride 2 on images, padded with zeros at the right and bottom edge.

    Args:
        channels: input and output channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name of the argument)
        """Map (B, C, H, W) to (B, C, H / 2, W / 2)."""
        return super().forward(F.pad(input, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Increase the resolution in time and space by factors of 1 or 2 each. Where space doubles, the channels halve.

    Time: a causal convolution over three frames to 2 C channels, which become two frames. The first frame of a clip is
    passed through unchanged, and later frames do not see it. Space: nearest-neighbor interpolation, then a convolution.

    Args:
        channels: input channels C.
        time: temporal factor, 1 or 2.
        space: spatial factor, 1 or 2.
    """

    def __init__(self, channels: int, time: int, space: int) -> None:
        super().__init__()
        self.time = nn.Conv3d(channels, 2 * channels, (3, 1, 1)) if time == 2 else None
        self.space = nn.Conv2d(channels, channels // 2, 3, padding=1) if space == 2 else None

    def forward(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, C, t, h, w) to (B, C / space, T, space h, space w).

        In the first chunk of a clip, T = 1 + time (t - 1). In later chunks, T = time t.
        """
        if self.time is not None:
            x = self.upsample_time(x, state)
        return x if self.space is None else apply_per_frame(self.upsample_space, x)

    def upsample_space(self, images: Tensor) -> Tensor:
        """Map images (N, C, h, w) to (N, C / 2, 2 h, 2 w). Requires a spatial factor of 2."""
        assert self.space is not None
        return self.space(_repeat_pixels(images))

    @torch.no_grad()
    def init_identity(self) -> None:
        """Initialize the temporal convolution to repeat each frame."""
        if self.time is not None:
            identity = torch.eye(self.time.in_channels).to(self.time.weight)
            self.time.weight.zero_()[:, :, 2] = torch.cat([identity, identity])[..., None, None]

    def upsample_time(self, x: Tensor, state: StreamState) -> Tensor:
        """Map (B, C, t, h, w) to (B, C, T, h, w). Requires a temporal factor of 2. See `forward` for T."""
        conv = self.time
        assert conv is not None
        first = x[:, :, : 1 if state.is_first_chunk(self) else 0]
        x = x[:, :, first.shape[2] :]
        if torch.compiler.is_exporting():  # one graph for images and clips: frame 0 gives an output to drop
            extended = torch.cat([first.new_zeros(first.shape).expand(-1, -1, 3, -1, -1), x], dim=2)
            pairs = convolve(conv, extended)[:, :, 1:].unflatten(1, (2, -1))
            return torch.cat([first, torch.stack(pairs.unbind(1), dim=3).flatten(2, 3)], dim=2)
        extended = prepend_history(conv, x, state)
        if not x.shape[2]:
            return first
        pairs = convolve(conv, extended).unflatten(1, (2, -1))  # (B, 2, C, t, h, w)
        doubled = pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        return torch.cat([first, doubled], dim=2) if first.shape[2] else doubled


def _repeat_pixels(images: Tensor) -> Tensor:
    """Upsample images (N, C, h, w) to (N, C, 2 h, 2 w): nearest-neighbor interpolation."""
    if torch.compiler.is_exporting():  # interpolate computes sizes with floats, which no symbolic size survives
        return images[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).flatten(4, 5).flatten(2, 3)
    return F.interpolate(images, scale_factor=2, mode="nearest-exact")
