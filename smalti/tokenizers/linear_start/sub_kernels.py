"""Fitting a part of a convolution's kernel, with zeros elsewhere.

Shapes: B batch; C input channels, O output channels; the other axes are positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from smalti.tokenizers.linear_start.least_squares import fit_convolution

Taps = tuple[slice, slice, slice]
"""The part of a kernel along (T, H, W)."""


@torch.no_grad()
def fit_part(conv: nn.Conv3d, taps: Taps, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """Fit a part of the kernel by least squares, and set all other weights to zero.

    Args:
        conv: changed in place.
        taps: the part.
        inputs: inputs (B, C, ...) without padding, cut so that a kernel with this part alone gives the targets' positions.
        targets: (B, O, ...) outputs.

    Returns:
        The share of the variance of the targets that is not explained, in [0, 1].
    """
    part = _part_of(conv, taps)
    error = fit_convolution(part, inputs, targets)
    conv.weight.zero_()
    conv.weight[(slice(None), slice(None), *taps)] = part.weight
    if conv.bias is not None and part.bias is not None:
        conv.bias.copy_(part.bias)
    return error


@torch.no_grad()
def _part_of(conv: nn.Conv3d, taps: Taps) -> nn.Conv3d:
    """Return a convolution without padding that has the size of a part of the kernel. Its weights are zero."""
    weight = conv.weight[(slice(None), slice(None), *taps)]
    size = (weight.shape[2], weight.shape[3], weight.shape[4])
    stride = (conv.stride[0], conv.stride[1], conv.stride[2])
    # Without initialization, which would draw random numbers.
    part = skip_init(nn.Conv3d, conv.in_channels, conv.out_channels, size, stride=stride, bias=conv.bias is not None)
    assert isinstance(part, nn.Conv3d)
    for parameter in part.parameters():
        parameter.zero_()
    return part.to(conv.weight)
