"""Choosing the convolution of a space-to-depth block for the linear start.

Such a block adds means over groups of channels, which are fixed, to a convolution that has the same few filters for all
positions of a block of positions. It cannot compute arbitrary components. The filters are chosen so that the best linear
map of the sum explains as much variance of the components as possible. Only second moments of the data are needed.

Shapes: B batch; C input channels; O output channels; P positions per block; O / P filters; K components; N observations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smalti.distributed import sum_over_ranks
from smalti.tokenizers.models.ltx.resampling import SpaceToDepthDownsample
from smalti.tokenizers.models.ltx.space_to_depth import space_to_depth

_ITERATIONS = 40

_RIDGE = 1e-4
"""Ridge parameter of the linear map, relative to the mean variance of the block's output."""


def choose_filters(layer: SpaceToDepthDownsample, x: list[Tensor], targets: list[Tensor]) -> tuple[Tensor, float]:
    """Return filters that let a linear map of the block's output explain the targets, and how much it leaves unexplained.

    Args:
        layer: the block; not changed.
        x: inputs (B, C, T, H, W) of the block, with the first frame repeated if time is halved.
        targets: components (B, K, t, h, w) at the block's output, with their own variances.

    Returns:
        The weights (O / P, C) of the convolution at the current position, and the unexplained share of the variance.
    """
    covariance, cross, energy = _second_moments([space_to_depth(h, layer.stride) for h in x], targets)
    positions = math.prod(layer.stride)
    channels = len(covariance) // positions
    means = _group_means(layer.out_channels, len(covariance)).to(covariance)
    identity = torch.eye(positions).to(covariance)
    count = layer.out_channels // positions
    # The last groups contain the means of the weakest channels: replace them first, by the strongest channels themselves.
    weights = torch.eye(channels).to(covariance)[torch.arange(count).flip(0) % channels].requires_grad_()

    def unexplained() -> Tensor:
        rows = torch.einsum("of, pq -> opfq", weights, identity).reshape(layer.out_channels, -1) + means
        inner = rows @ covariance @ rows.T
        ridge = _RIDGE * inner.diagonal().mean().detach() * torch.eye(len(inner)).to(inner)
        factor = torch.linalg.cholesky(inner + ridge)
        explained = torch.linalg.solve_triangular(factor, rows @ cross.T, upper=False).square().sum()
        return 1 - explained / energy

    optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = unexplained()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # pyright: ignore[reportArgumentType]  # the annotation wants a float
    with torch.no_grad():
        return weights.detach(), float(unexplained().clamp(0, 1))


def _second_moments(x: list[Tensor], targets: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return covariances over all processes: (C P, C P) of x, (K, C P) of targets with x; and the targets' variance."""
    width, count = x[0].shape[1], targets[0].shape[1]
    total = torch.zeros(width + count + 1, width + count + 1, dtype=torch.float64, device=x[0].device)
    for batch, target in zip(x, targets, strict=True):
        rows = torch.cat([batch, target, torch.ones_like(target[:, :1])], dim=1).movedim(1, -1).flatten(0, -2).double()
        total += rows.T @ rows
    total = sum_over_ranks(total)
    total = total / total[-1, -1].clamp_min(1)
    mean = total[-1, :-1]
    moments = total[:-1, :-1] - mean.outer(mean)
    return moments[:width, :width], moments[width:, :width], moments[width:, width:].diagonal().sum().clamp_min(1e-12)


def _group_means(outputs: int, inputs: int) -> Tensor:
    """Return the matrix (outputs, inputs) that takes means over groups of consecutive channels."""
    size = inputs // outputs
    return torch.eye(outputs, dtype=torch.float64).repeat_interleave(size, dim=1) / size
