"""Steps of the linear start that all families of networks share.

Shapes: B batch; C, O channels; Z channels of the latent; V hidden units; K components; the other axes are positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from smalti.tokenizers.linear_start.code import Decoding, StartCode
from smalti.tokenizers.linear_start.least_squares import fit_convolution
from smalti.tokenizers.linear_start.patches import Stride
from smalti.tokenizers.linear_start.pyramid import Pyramid

CODE_RIDGE = 1e-7
"""Ridge parameter of the layer that computes a code. The code is a function of the layer's inputs, without noise."""

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
    decoding: Decoding,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    activate_first: Callable[[Tensor], Tensor],
    activate_second: Callable[[Tensor], Tensor],
    errors: Errors,
) -> int:
    """Let the first convolution and the first residual block of a decoder compute components from codewords.

    The residual branch writes K components into the first channels, from V hidden units that the convolution writes into the
    channels behind them. Only the centers of the kernels are fitted: at other positions, the many units would fit the
    training data and not the codes of other images.

    Args:
        conv_in: the decoder's first convolution.
        block: the two convolutions of the residual branch.
        decoding: the hidden units.
        inputs: inputs of `conv_in`, with the codewords first.
        targets: (B, K, ...) components.
        activate_first: what the block applies before its first convolution.
        activate_second: what the block applies before its second convolution.
        errors: receives the errors of the two layers.

    Returns:
        The number of channels that later layers use, K.
    """
    first, second = block
    count, latent_dim = targets[0].shape[1], decoding.first.shape[1] - 1
    constant = torch.eye(latent_dim + 1)[-1:]  # the convolutions of the block may have no bias
    units = torch.cat([constant, decoding.first])[: first.in_channels - count].to(conv_in.weight)
    assert conv_in.bias is not None
    center = tuple(size // 2 for size in conv_in.kernel_size)
    written = slice(count, count + len(units))
    conv_in.weight[: written.stop] = 0.0
    conv_in.weight[(written, slice(latent_dim), *center)] = units[:, :-1]
    conv_in.bias[:count] = 0.0
    conv_in.bias[written] = units[:, -1]
    numbers = [decoding.number(z[:, :latent_dim].movedim(1, -1)).movedim(-1, 1) for z in inputs]
    hidden = [apply_affine(decoding.second[: first.out_channels], number) for number in numbers]
    x = [activate_first(conv_in(z)) for z in inputs]
    errors["code.conv1"] = fit_convolution(
        first, x, hidden, len(units), ridge=CODE_RIDGE, first=count, center_only=True
    )
    x = [activate_second(first(h)) for h in x]
    errors["code.conv2"] = fit_convolution(second, x, targets, hidden[0].shape[1], center_only=True)
    return count
