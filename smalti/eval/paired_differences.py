"""Paired differences between two sets of values of the same samples, with bootstrap intervals.

Shapes: N samples; M differences; R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RESAMPLES = 10_000
"""Number of resamples."""

FEW_SAMPLES = 20
"""Below this number of samples, intervals are too narrow: resamples of few samples vary less than new samples would."""

_QUANTILES = (0.025, 0.975)
_SEED = 0
_CHUNK = 1 << 22  # entries of the matrix of counts that are in memory at a time


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, and its 95% bootstrap interval.

    Attributes:
        mean: mean over the samples that both sides have.
        low: lower end of the interval.
        high: upper end of the interval.
        samples: number of these samples.
    """

    mean: float
    low: float
    high: float
    samples: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is on one side of zero."""
        return self.low > 0 or self.high < 0


def paired_differences(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> list[Difference | None]:
    """Return the mean difference of each pair, first minus second, over the samples that both have.

    Args:
        pairs: values by name of the sample.

    Returns:
        One difference per pair; None where fewer than two samples are shared.
    """
    groups: dict[tuple[str, ...], list[int]] = {}  # pairs with the same samples are resampled together
    for index, (values, others) in enumerate(pairs):
        groups.setdefault(tuple(sorted(values.keys() & others.keys())), []).append(index)
    results: list[Difference | None] = [None] * len(pairs)
    for names, indices in groups.items():
        if len(names) < 2:
            continue
        columns = [[pairs[index][0][name] - pairs[index][1][name] for name in names] for index in indices]
        differences = torch.tensor(columns, dtype=torch.float64).T
        intervals = bootstrap_intervals(differences).tolist()
        means = differences.mean(0).tolist()
        for index, mean, (low, high) in zip(indices, means, intervals, strict=True):
            results[index] = Difference(mean, low, high, len(names))
    return results


def bootstrap_intervals(values: Tensor) -> Tensor:
    """Return 95% percentile bootstrap intervals of means over samples (Efron and Tibshirani 1993, section 13.3).

    Samples are drawn with replacement, the same draws for all columns, with a fixed seed.

    Args:
        values: (N, M) float64.

    Returns:
        (M, 2): lower and upper ends.
    """
    count = len(values)
    generator = torch.Generator().manual_seed(_SEED)
    means = []
    for size in torch.ones(RESAMPLES).split(max(1, _CHUNK // count)):
        drawn = torch.randint(count, (len(size), count), generator=generator)
        # How often each sample was drawn: a product with the values is a sum over the draws.
        counts = torch.zeros(len(size), count, dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones(1, 1, dtype=torch.float64).expand_as(counts))
        means.append(counts @ values / count)
    return torch.cat(means).quantile(torch.tensor(_QUANTILES, dtype=torch.float64), dim=0).T
