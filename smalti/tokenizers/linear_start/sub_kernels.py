"""Fitting a part of a convolution's kernel, with zeros elsewhere.

Shapes: B batch; C input channels, O output channels; the other axes are positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from smalti.tokenizers.linear_start.least_squares import RIDGE, fit_convolution

Taps = tuple[slice, ...]
"""The part of a kernel along (T, H, W), or (H, W)."""


@torch.no_grad()
def fit_part(
    conv: nn.Conv2d | nn.Conv3d,
    taps: Taps,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    channels: int | Tensor | None = None,
    ridge: float = RIDGE,
) -> float:
    """Fit a part of the kernel by least squares, and set all other weights to zero.

    Output channels without a target keep this part of their weights.

    Args:
        conv: changed in place.
        taps: the part.
        inputs: inputs (B, C, ...) without padding, cut so that a kernel with this part alone gives the targets' positions.
        targets: (B, O or fewer, ...) outputs of the first channels.
        channels: see `fit_convolution`.
        ridge: see `fit_convolution`.

    Returns:
        The share of the variance of the targets that is not explained, in [0, 1].
    """
    part = _part_of(conv, taps)
    error = fit_convolution(part, inputs, targets, channels, ridge=ridge)
    conv.weight.zero_()
    conv.weight[(slice(None), slice(None), *taps)] = part.weight
    if conv.bias is not None and part.bias is not None:
        conv.bias.copy_(part.bias)
    return error


@torch.no_grad()
def _part_of(conv: nn.Conv2d | nn.Conv3d, taps: Taps) -> nn.Conv2d | nn.Conv3d:
    """Return a convolution without padding that consists of a part of the kernel."""
    weight = conv.weight[(slice(None), slice(None), *taps)]
    kind = nn.Conv2d if isinstance(conv, nn.Conv2d) else nn.Conv3d
    size = tuple(weight.shape[2:])
    # Without initialization, which would draw random numbers.
    part = skip_init(kind, conv.in_channels, conv.out_channels, size, stride=conv.stride, bias=conv.bias is not None)
    assert isinstance(part, nn.Conv2d | nn.Conv3d)
    part.to(conv.weight).weight.copy_(weight)
    if conv.bias is not None and part.bias is not None:
        part.bias.copy_(conv.bias)
    return part
