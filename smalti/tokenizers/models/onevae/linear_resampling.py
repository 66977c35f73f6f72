"""Fitting the layers of OneVAE's networks that change the resolution, for a start as a linear codec.

Shapes: B batch; C channels; T frames, H, W positions at the input of a layer; K components.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.distributed import sum_over_ranks
from smalti.errors import SmaltiError
from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.frames import apply_per_frame
from smalti.tokenizers.linear_start.causal_components import CausalComponents, Layout
from smalti.tokenizers.linear_start.fitting import Errors, frame_images
from smalti.tokenizers.linear_start.least_squares import fit_convolution, fit_noisy
from smalti.tokenizers.linear_start.patches import Stride
from smalti.tokenizers.models.onevae.norms import RMSNorm
from smalti.tokenizers.models.onevae.resampling import Downsample, Upsample

T = TypeVar("T")

_CONSTANT = 2.0
"""The constant channel before a norm, relative to the length of all other channels."""


class NormInput:
    """What the last layer before a norm and SiLU carries, so that both are nearly linear.

    An RMS norm divides by the length of the channels. Next to a large constant, the length hardly changes. All channels
    that are not used are zero. Without a norm, nothing is added.

    Args:
        norm: the norm. Its scale is set so that a position of typical length does not change. A module that is not an
            RMSNorm stands for no norm.
        width: number of channels of the layer.
        targets: (B, K, ...) what the layer carries.
    """

    def __init__(self, norm: nn.Module, width: int, targets: Sequence[Tensor]) -> None:
        self._width = width
        self._constant = None
        if isinstance(norm, RMSNorm):
            energy = torch.stack([target.double().square().sum() for target in targets]).sum()
            positions = energy.new_tensor(float(sum(target.numel() // target.shape[1] for target in targets)))
            energy, positions = sum_over_ranks(torch.stack([energy, positions])).tolist()
            mean = energy / positions
            self._constant = _CONSTANT * mean**0.5
            norm.gamma.fill_(((1 + _CONSTANT**2) * mean / width) ** 0.5)

    @staticmethod
    def room(norm: nn.Module, width: int) -> int:
        """Return how many channels of a layer are free."""
        return width - isinstance(norm, RMSNorm)

    def extend(self, targets: Sequence[Tensor]) -> list[Tensor]:
        """Return targets for all channels, (B, width, ...); unchanged without a norm."""
        if self._constant is None:
            return list(targets)
        extended = [torch.cat([torch.full_like(target[:, :1], self._constant), target], dim=1) for target in targets]
        return pad_channels(extended, self._width)


def fit_downsample(
    layer: Downsample,
    x: Sequence[Tensor],
    layout: Layout,
    components: CausalComponents,
    errors: Errors,
    name: str,
    norm: nn.Module | None = None,
) -> Layout:
    """Fit a downsampling layer, and return what its outputs carry.

    Args:
        layer: changed in place.
        x: its inputs (B, C, T, H, W).
        layout: what the inputs carry.
        components: the data.
        errors: receives the errors of the convolutions.
        name: name of the layer.
        norm: what follows if this is the last layer before it (see `NormInput`); None for other layers.

    Raises:
        SmaltiError: the layer does not halve height and width.
    """
    space = check_changes_space(layer.space, name)
    time, height, width = layout.stride
    stride = (time if layer.time is None else 2 * time, 2 * height, 2 * width)
    channels, signed = space.out_channels, norm is not None
    following = norm if norm is not None else nn.Identity()
    room = NormInput.room(following, channels)
    after = components.choose(stride, room, signed=signed)
    before = components.choose((time, *stride[1:]), room, still=after.still, signed=signed)
    final = components.targets(after)
    norm_input = NormInput(following, channels, final)
    # Channels that only the temporal convolution writes must be zero for frame 0, which passes it unchanged.
    targets = norm_input.extend(pad_channels(components.targets(before), after.channels))
    errors[f"{name}.space"] = fit_convolution(space, pad_images(x), frame_images(targets), layout.channels)
    if layer.time is None:
        return before
    pairs = zip(x, norm_input.extend(final), strict=True)
    clips = [(apply_per_frame(space, h), t[:, :, 1:]) for h, t in pairs if h.shape[2] > 1]
    if clips:
        errors[f"{name}.time"] = fit_convolution(layer.time, [h for h, _ in clips], [t for _, t in clips])
    return after


def fit_upsample(
    layer: Upsample,
    x: Sequence[Tensor],
    layout: Layout,
    components: CausalComponents,
    errors: Errors,
    name: str,
    norm: nn.Module | None = None,
) -> Layout:
    """Fit an upsampling layer, and return what its outputs carry. See `fit_downsample` for the arguments.

    Raises:
        SmaltiError: the layer does not double height and width.
    """
    space = check_changes_space(layer.space, name)
    if layer.time is not None:
        layout = _fit_upsample_time(layer.time, x, layout, components, errors, name)
        x = [layer.upsample_time(h, StreamState(last=True)) for h in x]
    time, height, width = layout.stride
    result, targets = choose_targets(components, (time, height // 2, width // 2), space.out_channels, norm)
    images = [F.interpolate(h, scale_factor=2, mode="nearest-exact") for h in frame_images(x)]
    errors[f"{name}.space"] = fit_noisy(space, images, frame_images(targets), layout.channels)
    return result


def choose_targets(
    components: CausalComponents, stride: tuple[int, int, int], width: int, norm: nn.Module | None
) -> tuple[Layout, list[Tensor]]:
    """Return what a layer of a width carries at a stride. See `fit_downsample` for the other arguments."""
    if norm is None:
        layout = components.choose(stride, width)
        return layout, components.targets(layout)
    room = NormInput.room(norm, width)
    layout = components.choose(stride, room)
    if 2 * layout.channels <= room:
        layout = components.choose(stride, room, signed=True)
    targets = components.targets(layout)
    return layout, NormInput(norm, width, targets).extend(targets)


def pad_channels(targets: Sequence[Tensor], width: int) -> list[Tensor]:
    """Append channels of zeros to targets (B, K, ...) that have fewer than `width`."""
    return [torch.cat([t, t.new_zeros(len(t), max(0, width - t.shape[1]), *t.shape[2:])], dim=1) for t in targets]


def prepend_zeros(x: Sequence[Tensor]) -> list[Tensor]:
    """Prepend two frames of zeros, which a temporal convolution sees before a clip, to x (B, C, T, H, W)."""
    return [F.pad(h, (0, 0, 0, 0, 2, 0)) for h in x]


def _fit_upsample_time(
    conv: nn.Conv3d, x: Sequence[Tensor], layout: Layout, components: CausalComponents, errors: Errors, name: str
) -> Layout:
    time, height, width = layout.stride
    result = components.choose((time // 2, height, width), conv.in_channels, still=layout.still)
    clips = [(h, t) for h, t in zip(x, components.targets(result), strict=True) if h.shape[2] > 1]
    if clips:
        rows = torch.arange(result.channels, device=conv.weight.device)
        rows = torch.cat([rows, rows + conv.in_channels])
        inputs = prepend_zeros([h[:, :, 1:] for h, _ in clips])
        targets = [torch.cat([t[:, :, 1::2], t[:, :, 2::2]], dim=1) for _, t in clips]
        errors[f"{name}.time"] = fit_noisy(conv, inputs, targets, layout.channels, rows)
    return result


def pad_images(clips: Sequence[Tensor]) -> list[Tensor]:
    """Return the frames of clips with the padding of `StridedConv2d`, for regressions on its inputs."""
    return [F.pad(images, (0, 1, 0, 1)) for images in frame_images(clips)]


def upsampled_stride(layers: nn.ModuleList) -> Stride:
    """Return the factors by which layers of a decoder upsample frames, height and width."""
    upsamples = [layer for layer in layers if isinstance(layer, Upsample)]
    time, space = (2 ** sum(getattr(layer, axis) is not None for layer in upsamples) for axis in ("time", "space"))
    return time, space, space


def check_changes_space(conv: T | None, name: str) -> T:
    """Return the convolution that halves or doubles height and width in a layer.

    Raises:
        SmaltiError: there is none.
    """
    if conv is None:
        raise SmaltiError(
            f"{name} changes only the number of frames, which has no start as a linear codec: set start.method to random."
        )
    return conv
