"""Steps of the linear start that all families of networks share.

Shapes: B batch; C, O channels; Z channels of the latent; V hidden units; K components; the other axes are positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.least_squares import fit_convolution
from smalti.tokenizers.linear_start.patches import Stride
from smalti.tokenizers.linear_start.pyramid import Pyramid

CODE_RIDGE = 1e-7
"""Ridge parameter of the layer that computes a code. The code is a function of the layer's inputs, without noise."""

_RAMPS = (-1.0, 0.0, 0.5, -0.5, 0.75, -0.75, 0.25, -0.25)
"""Where the ramps begin from which a decoder interpolates the centers of a quantizer's cells."""

_SLOPE = 8.0
"""Slope of these ramps. Steeper ones would be more exact, and training would be more sensitive to their weights."""

Errors = dict[str, float]
"""The share of the variance of its targets that each fitted layer does not explain, by the layer's name."""


def limit_components(available: int, width: int) -> int:
    """Return how many components a layer carries: all, or seven eighths of its channels. The others stay random."""
    return available if available <= width else max(1, width * 7 // 8)


def signed_pair(x: Tensor, width: int) -> Tensor:
    """Return x (B, C, ...) and -x along the channels if a layer of `width` channels has room for both, else x."""
    return torch.cat([x, -x], dim=1) if 2 * x.shape[1] <= width else x[:, :width]


def hidden_units(pyramid: Pyramid, code: StartCode, stride: Stride, width: int) -> list[Tensor]:
    """Return the values of the encoder's hidden units before SiLU, (B, U, ...), at most `width` of them."""
    units = code.hidden[:width]
    return [apply_affine(units, c) for c in pyramid.coefficients(stride, units.shape[1] - 1)]


def apply_affine(rows: Tensor, x: Tensor) -> Tensor:
    """Apply affine functions (U, K + 1) to the channels of x (B, K, ...), which gives (B, U, ...)."""
    rows = rows.to(x)
    return torch.einsum("uk, bk... -> bu...", rows[:, :-1], x) + rows[:, -1].view(1, -1, *[1] * (x.ndim - 2))


@torch.no_grad()
def fit_code_block(
    conv_in: nn.Conv2d | nn.Conv3d,
    block: tuple[nn.Conv2d | nn.Conv3d, nn.Conv2d | nn.Conv3d],
    numbers: Tensor | None,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    activate_first: Callable[[Tensor], Tensor],
    activate_second: Callable[[Tensor], Tensor],
    errors: Errors,
) -> int:
    """Let the first convolution and the first residual block of a decoder compute components from codewords.

    The convolution writes the best linear estimate into the first K channels. If there is room, it writes the numbers of the
    quantizer's cells behind them, and the residual branch maps these to the centers of the cells. Only the centers of its
    kernels are fitted.

    Args:
        conv_in: the decoder's first convolution.
        block: the two convolutions of the residual branch, which is the identity if there is no room.
        numbers: (K, Z + 1) affine functions of the codewords, in [-1, 1]; None: the linear estimate is all.
        inputs: inputs of `conv_in` without its padding, with the codewords first.
        targets: (B, K', ...) components, with K' >= K.
        activate_first: what the block applies before its first convolution.
        activate_second: what the block applies before its second convolution.
        errors: receives the errors of the layers.

    Returns:
        The number of channels that later layers use, K'.
    """
    first, second = block
    count = targets[0].shape[1]
    latent_dim = conv_in.in_channels if numbers is None else numbers.shape[1] - 1
    errors["conv_in"] = fit_convolution(conv_in, inputs, targets, latent_dim)
    second.weight.zero_()
    if second.bias is not None:
        second.bias.zero_()
    if numbers is None or count + 2 * len(numbers) + 1 > conv_in.out_channels:
        return count
    assert conv_in.bias is not None
    rows = 2 * numbers.to(conv_in.weight)
    constant = torch.eye(latent_dim + 1)[-1:].to(rows)  # the convolutions of the block may have no bias
    units = torch.cat([rows, -rows, constant])
    center = tuple(size // 2 for size in conv_in.kernel_size)
    center = (conv_in.kernel_size[0] - 1, *center[1:]) if len(center) == 3 else center
    written = slice(count, count + len(units))
    conv_in.weight[written] = 0.0
    conv_in.weight[(written, slice(latent_dim), *center)] = units[:, :-1]
    conv_in.bias[written] = units[:, -1]
    estimates = [conv_in(z) for z in inputs]
    x = [activate_first(h) for h in estimates]
    hidden = [_ramps(h[:, count : count + len(numbers)] / 2, first.out_channels) for h in estimates]
    errors["code.conv1"] = fit_convolution(
        first, x, hidden, len(units), ridge=CODE_RIDGE, first=count, center_only=True
    )
    x = [activate_second(first(h)) for h in x]
    residuals = [target - h[:, :count] for target, h in zip(targets, estimates, strict=True)]
    errors["code.conv2"] = fit_convolution(second, x, residuals, hidden[0].shape[1], center_only=True)
    return count


def _ramps(numbers: Tensor, width: int) -> Tensor:
    """Return a constant and soft ramps (B, W, ...) of numbers (B, K, ...) in [-1, 1]: ramps of all numbers by their start."""
    ramps = [torch.ones_like(numbers[:, :1]), *(_SLOPE * (numbers - start) for start in _RAMPS)]
    return torch.cat(ramps, dim=1)[:, :width]
