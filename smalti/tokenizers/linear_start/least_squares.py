"""Setting the weights of a convolution by ridge regression on the inputs that the layers before it give.

Shapes: B batch; C input and O output channels; positions are the axes after the channels; F = C x (kernel size) features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.distributed import sum_over_ranks, world_size

RIDGE = 1e-4
"""Ridge parameter, relative to the variance of each feature."""

_POSITIONS_PER_FEATURE = 32
"""Number of positions in the regression per feature. More cost time and change little."""

_MIN_POSITIONS = 16384


_OBSERVATIONS_PER_FEATURE = 8
"""Number of observations per feature below which the ridge parameter grows."""

_MAX_FLOAT64 = 1024
"""Maximum number of features for which products are computed in float64."""


class NormalEquations:
    """The sums from which a linear regression with an intercept is solved, over all batches and all processes.

    Args:
        features: number of features F.
        outputs: number of outputs O.
        device: device of the data.
    """

    def __init__(self, features: int, outputs: int, device: torch.device) -> None:
        self._products = torch.zeros(features + 1, features + 1 + outputs, dtype=torch.float64, device=device)
        self._energy = torch.zeros(outputs, dtype=torch.float64, device=device)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add observations: features (N, F) and outputs (N, O)."""
        # Codes need more precision than float32 has. They have few features, for which float64 costs little.
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1).to(torch.float64 if x.shape[1] <= _MAX_FLOAT64 else x.dtype)
        y = y.to(x.dtype)
        self._products += (x.T @ torch.cat([x, y], dim=1)).double()
        self._energy += y.double().square().sum(0)

    def solve(self, *, intercept: bool = True, ridge: float | Tensor = RIDGE) -> tuple[Tensor, Tensor, float]:
        """Return the solution with the least squared error plus ridge penalty. All processes get the same.

        Args:
            intercept: whether the model has an intercept, which is not penalized.
            ridge: ridge parameter, relative to the variance of each feature; (F,) one for each.

        Returns:
            The (O, F) weights, the (O,) intercepts, which are 0 without `intercept`, and the share of the variance of the
            outputs that is not explained, in [0, 1].
        """
        packed = sum_over_ranks(torch.cat([self._products.flatten(), self._energy]))
        size = len(self._products)
        products, energy = packed[: self._products.numel()].view_as(self._products), packed[self._products.numel() :]
        count = products[-1, size - 1].clamp_min(1)
        xx, xy = products[:-1, : size - 1] / count, products[:-1, size:] / count
        x_mean, y_mean = products[:-1, size - 1] / count, products[-1, size:] / count
        variance = (energy / count - y_mean.square()).sum()
        if intercept:
            xx, xy = xx - x_mean.outer(x_mean), xy - x_mean.outer(y_mean)
        ridge = torch.as_tensor(ridge, dtype=xx.dtype, device=xx.device)
        # With few observations, a weak penalty fits them and nothing else. Exact functions keep their tiny penalty.
        scarcity = (_OBSERVATIONS_PER_FEATURE * (size - 1) / count).clamp_min(1.0)
        ridge = torch.where(ridge >= RIDGE, ridge * scarcity**2, ridge)
        penalty = ridge * xx.diagonal() + 1e-9 * xx.diagonal().mean().clamp_min(1e-12)
        weights = torch.linalg.solve(xx + penalty.diag(), xy).T
        bias = y_mean - weights @ x_mean if intercept else torch.zeros_like(y_mean)
        residual = energy / count - y_mean.square() if intercept else energy / count
        residual = residual - 2 * (weights * xy.T).sum(1) + (weights @ xx * weights).sum(1)
        return weights, bias, float((residual.sum() / variance.clamp_min(1e-12)).clamp(0, 1))


@torch.no_grad()
def fit_convolution(
    conv: nn.Conv2d | nn.Conv3d,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    channels: int | Tensor | None = None,
    rows: Tensor | None = None,
    ridge: float = RIDGE,
) -> float:
    """Set rows of a convolution so that it maps inputs to targets with the least squared error.

    Args:
        conv: changed in place. Weights of other rows are kept. A convolution without bias gets no intercept.
        inputs: inputs of the convolution, (B, C, ...), without its padding.
        targets: (B, R, ...) outputs of its rows at all positions.
        channels: number of leading input channels to use, or their indices. The others get weights of zero in these rows.
            None: all.
        rows: (R,) indices of the output channels; None: the first R.
        ridge: ridge parameter, relative to the variance of each feature.

    Returns:
        The share of the variance of the targets that the convolution does not explain, in [0, 1].
    """
    channels = _indices(conv, channels)
    count = targets[0].shape[1]
    rows = torch.arange(count, device=conv.weight.device) if rows is None else rows
    features = len(channels) * math.prod(conv.kernel_size)
    equations = NormalEquations(features, count, conv.weight.device)
    total = sum(target.numel() // count for target in targets)
    share = min(1.0, max(_MIN_POSITIONS, _POSITIONS_PER_FEATURE * features) / total)
    generator = torch.Generator().manual_seed(0)
    for x, target in zip(inputs, targets, strict=True):
        y = target.movedim(1, -1).reshape(-1, count)
        chosen = torch.randperm(len(y), generator=generator)[: max(1, round(share * len(y)))].to(y.device)
        equations.add(_windows(conv, x[:, channels], chosen), y[chosen].float())
    weights, bias, error = equations.solve(intercept=conv.bias is not None, ridge=ridge)
    conv.weight[rows] = 0.0
    conv.weight[rows[:, None], channels] = weights.unflatten(1, (len(channels), *conv.kernel_size)).to(conv.weight)
    if conv.bias is not None:
        conv.bias[rows] = bias.to(conv.bias)
    return error


@torch.no_grad()
def fit_noisy(
    conv: nn.Conv2d | nn.Conv3d,
    x: Sequence[Tensor],
    targets: Sequence[Tensor],
    channels: int | Tensor | None = None,
    rows: Tensor | None = None,
) -> float:
    """Fit a convolution of the decoder. Codewords are noisy: few positions per weight need a stronger penalty.

    See `fit_convolution` for the arguments.
    """
    features = len(_indices(conv, channels)) * math.prod(conv.kernel_size)
    positions = sum(target.numel() // target.shape[1] for target in targets) * world_size()
    return fit_convolution(conv, x, targets, channels, rows, ridge=RIDGE + features / positions)


def _indices(conv: nn.Conv2d | nn.Conv3d, channels: int | Tensor | None) -> Tensor:
    """Return the indices of the input channels to use, see `fit_convolution`."""
    if not isinstance(channels, Tensor):
        channels = torch.arange(conv.in_channels if channels is None else channels)
    return channels.to(conv.weight.device)


def _windows(conv: nn.Conv2d | nn.Conv3d, x: Tensor, chosen: Tensor) -> Tensor:
    """Return what the kernel sees at chosen output positions: (N, C x kernel size) float32."""
    padding = conv.padding if isinstance(conv.padding, tuple) else (0,) * len(conv.kernel_size)
    sides = [side for pad in reversed(padding) for side in (pad, pad)]
    if any(sides):
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x = F.pad(x, sides, mode=mode)
    for axis, (size, stride) in enumerate(zip(conv.kernel_size, conv.stride, strict=True), start=2):
        x = x.unfold(axis, size, stride)
    positions = x.movedim(1, len(conv.kernel_size) + 1)  # (B, positions ..., C, kernel ...), a view
    index = []
    for length in reversed(positions.shape[: len(conv.kernel_size) + 1]):
        index.append(chosen % length)
        chosen = chosen // length
    return positions[tuple(reversed(index))].flatten(1).float()
