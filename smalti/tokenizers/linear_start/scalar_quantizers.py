"""Lloyd-Max scalar quantizers, and the allocation of levels to components.

All functions work on histograms, which processes can add up. Shapes: K components; S bins; L levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from smalti.distributed import sum_over_ranks

BINS = 2048
"""Number of bins of a histogram."""

RANGE = 6.0
"""Histograms cover -RANGE to RANGE standard deviations. Values outside are counted in the outermost bins."""

CANDIDATE_LEVELS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 192, 256)
"""Numbers of levels between which components choose."""

_ITERATIONS = 150


def histograms(batches: Sequence[Tensor]) -> Tensor:
    """Return the (K, S) float64 relative frequencies of standardized coefficients (N, K) over all processes."""
    count = batches[0].shape[1]
    total = torch.zeros(count, BINS, dtype=torch.float64, device=batches[0].device)
    for batch in batches:
        bins = ((batch.T + RANGE) * (BINS / (2 * RANGE))).floor().clamp(0, BINS - 1).long()
        total.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float64))
    total = sum_over_ranks(total)
    return total / total.sum(1, keepdim=True).clamp_min(1)


def bin_centers(device: torch.device) -> Tensor:
    """Return the (S,) centers of the bins."""
    return (torch.arange(BINS, dtype=torch.float64, device=device) + 0.5) * (2 * RANGE / BINS) - RANGE


def lloyd_max(frequencies: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Design the scalar quantizers with the least mean squared error (Lloyd, "Least squares quantization in PCM", 1982).

    Args:
        frequencies: (K, S) histograms.
        levels: number of levels L.

    Returns:
        (K, L) ascending values of the levels, and the (K,) mean squared errors.
    """
    centers = bin_centers(frequencies.device)
    mass = _cumulative(frequencies)
    moment = _cumulative(frequencies * centers)
    second = (frequencies * centers.square()).sum(1)
    quantiles = (torch.arange(levels, dtype=torch.float64, device=frequencies.device) + 0.5) / levels
    start = torch.searchsorted(mass[:, 1:].contiguous(), quantiles.expand(len(mass), -1).contiguous()).clamp_max(
        BINS - 1
    )
    values = centers[start]
    weights = torch.zeros_like(values)
    for _ in range(_ITERATIONS):
        edges = (values[:, 1:] + values[:, :-1]) / 2
        index = ((edges + RANGE) * (BINS / (2 * RANGE)) - 0.5).ceil().clamp(0, BINS).long()  # bins are uniform
        index = torch.cat([torch.zeros_like(index[:, :1]), index, torch.full_like(index[:, :1], BINS)], 1)
        if levels == 1:
            index = torch.tensor([[0, BINS]], device=values.device).expand(len(values), -1)
        weights = mass.gather(1, index).diff(dim=1)
        sums = moment.gather(1, index).diff(dim=1)
        values = torch.where(weights > 0, sums / weights.clamp_min(1e-300), values)
        values = values.sort(1).values
    # For centroids, the error is the second moment minus the energy of the levels.
    return values, (second - (weights * values.square()).sum(1)).clamp_min(0)


def allocate_levels(variances: Tensor, frequencies: Tensor, bits: float) -> list[int]:
    """Distribute bits over components so that the mean squared error is least: greedy reverse water-filling.

    Each step gives the component with the largest decrease of its error per bit its next number of levels.

    Args:
        variances: (K,) variances of the components.
        frequencies: (K, S) histograms of the standardized coefficients.
        bits: the sum of log2(levels) does not exceed this.

    Returns:
        The number of levels of each component; 1 if it is not coded.
    """
    errors = torch.stack([lloyd_max(frequencies, levels)[1] * variances for levels in CANDIDATE_LEVELS]).tolist()
    costs = [math.log2(levels) for levels in CANDIDATE_LEVELS]
    chosen = [0] * len(variances)
    remaining = bits + 1e-9
    while True:
        best, best_gain = None, 0.0
        for k, current in enumerate(chosen):
            for following in range(current + 1, min(current + 4, len(costs))):
                cost = costs[following] - costs[current]
                gain = (errors[current][k] - errors[following][k]) / cost
                if cost <= remaining and gain > best_gain:
                    best, best_gain = (k, following), gain
        if best is None:
            return [CANDIDATE_LEVELS[index] for index in chosen]
        remaining -= costs[best[1]] - costs[chosen[best[0]]]
        chosen[best[0]] = best[1]


def _cumulative(x: Tensor) -> Tensor:
    """Return the cumulative sums along the bins, with a leading zero: (K, S) to (K, S + 1)."""
    return torch.cat([x.new_zeros(len(x), 1), x.cumsum(1)], dim=1)
