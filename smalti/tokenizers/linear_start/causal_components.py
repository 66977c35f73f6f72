"""Components of patches for causal networks, in which still and moving content have separate channels.

A temporal convolution of a causal network passes frame 0 of a clip unchanged. Before and after it, the same channels must
therefore mean the same for a patch that does not move. A layer carries the components of the temporal mean first, and then
those of the differences from this mean, which are zero for frame 0 and for images.

Shapes: B batch; T frames, H, W pixels; t, h, w positions; K components.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.tokenizers.linear_start.patches import Stride
from smalti.tokenizers.linear_start.pyramid import Pyramid, component_scales

_MAX_COMPONENTS = 768
"""Maximum number of components of each kind."""

_SMALLEST_VARIANCE = 1e-8
"""Components with less variance, relative to the largest, are rounding errors: images do not move."""


@dataclass(frozen=True)
class Layout:
    """What the channels of a layer carry: first the still components, then the moving ones.

    Attributes:
        stride: frames, height and width of a patch.
        still: number of components of the temporal mean.
        moving: number of components of the differences from the temporal mean.
        signed: whether the components of each kind are followed by their negatives, so that SiLU can be undone.
    """

    stride: Stride
    still: int
    moving: int
    signed: bool = False

    @property
    def channels(self) -> int:
        """Number of channels."""
        return (1 + self.signed) * (self.still + self.moving)


class CausalComponents:
    """Still and moving components of patches of all sizes.

    Args:
        pyramid: the data.
    """

    def __init__(self, pyramid: Pyramid) -> None:
        self.pyramid = pyramid
        self._moving: dict[int, Pyramid] = {}

    def choose(self, stride: Stride, width: int, *, still: int | None = None, signed: bool = False) -> Layout:
        """Return the layout of the components with the largest variances.

        Args:
            stride: frames, height and width of a patch.
            width: maximum number of channels.
            still: number of still components; None: chosen by variance.
            signed: see `Layout`.
        """
        count = width // (1 + signed)
        still_variances, moving_variances = self._still_variances(stride), self._moving_variances(stride)
        if still is not None:
            return Layout(stride, still, min(len(moving_variances), count - still), signed)
        order = torch.cat([still_variances, moving_variances]).argsort(descending=True, stable=True)[:count]
        still = int((order < len(still_variances)).sum())
        return Layout(stride, still, len(order) - still, signed)

    def targets(self, layout: Layout) -> list[Tensor]:
        """Return what a layer with a layout carries: (B, channels, t, h, w) of each batch."""
        time, *space = layout.stride
        frames = self.pyramid.targets((1, space[0], space[1]), layout.still)
        parts = [[_group_frames(x, time).mean(3) for x in frames]]
        if layout.moving:
            variances = self._moving_variances(layout.stride)[: layout.moving]
            scales = component_scales(variances, self._still_variances(layout.stride)[0])
            coefficients = self._moving_pyramid(time).coefficients(layout.stride, layout.moving)
            parts.append([c * scales[:, None, None, None] for c in coefficients])
        signed = [part for x in parts for part in ((x, [-c for c in x]) if layout.signed else (x,))]
        return [torch.cat(batch, dim=1) for batch in zip(*signed, strict=True)]

    def _still_variances(self, stride: Stride) -> Tensor:
        """Return the variances (K,) of still components over a whole patch, in which they repeat in each frame."""
        return _significant(self.pyramid.components((1, *stride[1:]), _MAX_COMPONENTS).variances) * stride[0]

    def _moving_variances(self, stride: Stride) -> Tensor:
        """Return the variances (K,) of moving components; empty for patches of one frame and if nothing moves."""
        first = self._still_variances(stride)[:1]
        if stride[0] == 1:
            return first[:0]
        variances = self._moving_pyramid(stride[0]).components(stride, _MAX_COMPONENTS).variances
        return variances[variances > _SMALLEST_VARIANCE * first]

    def _moving_pyramid(self, time: int) -> Pyramid:
        if time not in self._moving:
            self._moving[time] = Pyramid([_subtract_mean(batch, time) for batch in self.pyramid.batches])
        return self._moving[time]


def _significant(variances: Tensor) -> Tensor:
    return variances[variances > _SMALLEST_VARIANCE * variances[0]]


def _group_frames(x: Tensor, time: int) -> Tensor:
    """Group the frames of a clip as `to_patches` does: (B, C, T, h, w) to (B, C, t, time, h, w)."""
    first = x[:, :, :1].expand(-1, -1, time - 1, -1, -1)
    last = x[:, :, -1:].expand(-1, -1, -(x.shape[2] - 1) % time, -1, -1)
    return torch.cat([first, x, last], dim=2).unflatten(2, (-1, time))


def _subtract_mean(pixels: Tensor, time: int) -> Tensor:
    """Subtract from each frame the mean of its group of `time` frames."""
    groups = _group_frames(pixels, time)
    return (groups - groups.mean(3, keepdim=True)).flatten(2, 3)[:, :, time - 1 :][:, :, : pixels.shape[2]]
