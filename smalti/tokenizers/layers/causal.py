"""Convolutions over space and time that never look ahead, and go on from chunk to chunk of a clip.

Shapes: B batch, C channels, T frames, H, W positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.codec import State

_HISTORY = 2
"""Frames before the present one that a convolution of three frames sees."""
_SLOW = 20480
"""Channels x frames x rows up to which PyTorch 2 takes its slow path for a single clip on a CPU."""


def per_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer of images, (B T, C, H, W) to the same, on each frame of (B, C, T, H, W)."""
    return _as_video(layer(_as_images(x.permute(0, 2, 3, 4, 1))), x.shape[0])


def _as_images(frames: Tensor) -> Tensor:
    """(B, T, H, W, C) to (B T, C, H, W) in PyTorch's memory format channels_last, without a copy where it has that order.

    The detour over one axis gives a single image the strides by which PyTorch knows the format.
    """
    return frames.flatten().view(-1, *frames.shape[2:]).permute(0, 3, 1, 2)


def _as_video(images: Tensor, batch: int) -> Tensor:
    """(B T, C, H, W) to (B, C, T, H, W)."""
    return images.unflatten(0, (batch, -1)).transpose(1, 2)


def convolve(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """conv(x), around PyTorch's slow path on CPUs.

    PyTorch convolves a single small clip by a plain matrix product, which takes up to eight times as long as oneDNN. Its
    frames as a batch of images, with the frames that the kernel sees beside each other as channels, go to oneDNN. That also
    gives chunks the same bits as the whole clip; so it is done for very few positions too, where it is the slower one.

    Args:
        conv: without padding in time, padded by half its kernel in space.
        x: (B, C, T, H, W).
    """
    taps, (stride, rows, columns) = conv.kernel_size[0], conv.stride
    steps = (x.shape[2] - taps) // stride + 1
    if x.device.type != "cpu" or x.shape[0] > 1 or math.prod(x.shape[1:4]) > _SLOW:
        return nn.Conv3d.forward(conv, x)
    frames = x.permute(0, 2, 3, 4, 1)
    seen = [frames[:, tap : tap + stride * (steps - 1) + 1 : stride] for tap in range(taps)]
    images = _as_images(torch.cat(seen, dim=-1))
    border = conv.kernel_size[1] // 2
    weight = conv.weight.transpose(1, 2).flatten(1, 2)  # (out, 3 C, k, k), in the order of `seen`
    if conv.padding_mode != "zeros":
        images, border = F.pad(images, (border, border, border, border), mode=conv.padding_mode), 0
    return _as_video(F.conv2d(images, weight, conv.bias, (rows, columns), padding=(border, border)), x.shape[0])


class CausalConv3d(nn.Conv3d):
    """3 x 3 x 3 over the present frame and the two before it; zeros before the clip begins, and around each frame.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=(0, 1, 1))

    def forward(self, x: Tensor, state: State) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, in_channels, T, H, W) to (B, out_channels, T, H, W)."""
        return convolve(self, _after_history(self, x, state))


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

    def forward(self, x: Tensor, state: State) -> Tensor:
        """(B, C, T, H, W) to (B, C, t, H / space, W / space); of a clip's first chunk T is 1 + time k, then time k."""
        if self.space is not None:
            x = per_frame(self.space, x)
        if self.time is None:
            return x
        before = state.kept(self)
        state.keep(self, x[:, :, -1:])
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

    def forward(self, x: Tensor, state: State) -> Tensor:
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

    def _longer(self, conv: nn.Conv3d, x: Tensor, state: State) -> Tensor:
        first = x[:, :, : 1 if state.begins(self) else 0]
        x = x[:, :, first.shape[2] :]
        seen = _after_history(conv, x, state)
        if not x.shape[2]:
            return first
        pairs = convolve(conv, seen).unflatten(1, (2, -1))  # (B, 2, C, t, h, w)
        doubled = pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        return torch.cat([first, doubled], dim=2) if first.shape[2] else doubled

    def _larger(self, images: Tensor) -> Tensor:
        assert self.space is not None
        return self.space(F.interpolate(images, scale_factor=2, mode="nearest-exact"))


def _after_history(layer: nn.Module, x: Tensor, state: State) -> Tensor:
    """X with the two frames before it, zeros where the clip begins; keeps its last two frames for the next chunk."""
    frames = x.permute(0, 2, 3, 4, 1)
    before = state.kept(layer)
    if before is None:
        before = frames.new_zeros(frames.shape[0], _HISTORY, *frames.shape[2:])
    seen = torch.cat([before, frames], dim=1)
    state.keep(layer, seen[:, -_HISTORY:])
    return seen.permute(0, 4, 1, 2, 3)
