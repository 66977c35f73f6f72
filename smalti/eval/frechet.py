"""The Fréchet distance between two sets of features, accurate for few and for many samples, in bounded memory.

    d^2 = |m_a - m_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2))          (arXiv 1706.08500, eq. 6)

Instead of a covariance S (D x D), this module stores a root of it: rows R with R^T R = (n - 1) S, initially the centered
features themselves. The last trace is then the sum of the singular values of R_a R_b^T / ((n_a - 1)(n_b - 1))^(1/2). This
avoids the eigenvalues of a product that is not symmetric and the square root of rounding errors, and the matrix is small
if n < D. When there are more than 2 D rows, a QR decomposition reduces them to D rows with the same R^T R.

Shapes: n samples, D features, k <= 2 D rows of a root.
"""

from __future__ import annotations

import torch
from torch import Tensor


class FeatureStatistics:
    """Count, mean and scatter of a set of features, in float64 on the CPU. Sets merge exactly, in any order.

    Args:
        dim: number of features D.

    Attributes:
        count: number of samples n.
        mean: (D,).
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self._rows: list[Tensor] = []

    def add(self, features: Tensor) -> None:
        """Add features (n, D)."""
        x = features.detach().to("cpu", torch.float64)
        mean = x.mean(0) if len(x) else self.mean
        self._join(len(x), mean, [x - mean])

    def merge(self, other: FeatureStatistics) -> None:
        """Add another set."""
        self._join(other.count, other.mean, other._rows)

    @property
    def root(self) -> Tensor:
        """(k, D) rows R with R^T R the scatter, the sum of (x - mean)(x - mean)^T; k <= max(n, 2 D)."""
        return torch.cat([*self._rows, self.mean.new_zeros(0, len(self.mean))])

    def _join(self, count: int, mean: Tensor, rows: list[Tensor]) -> None:
        if count == 0:
            return
        total = self.count + count
        shift = mean - self.mean
        # Chan et al. 1979: the scatter of a union is the sum of the scatters plus this rank-one term.
        between = shift * (self.count * count / total) ** 0.5
        self.mean = self.mean + shift * (count / total)
        self._rows = [*self._rows, *rows, between[None]] if self.count else list(rows)
        self.count = total
        if sum(len(block) for block in self._rows) > 2 * len(self.mean):
            self._rows = [_reduce_rows(self.root)]


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Return the squared Fréchet distance between the Gaussians that fit two sets, the value that FID reports.

    Args:
        a: a set of at least two samples. Covariances are unbiased.
        b: another set, with the same number of features.

    Returns:
        A number >= 0; 0 for equal sets.

    Raises:
        ValueError: a set has fewer than two samples.
    """
    if min(a.count, b.count) < 2:
        raise ValueError(f"A covariance needs at least two samples, but the sets have {a.count} and {b.count}.")
    dim = len(a.mean)
    root_a, root_b = (_reduce_rows(root) if len(root) > dim else root for root in (a.root, b.root))
    root_a, root_b = root_a / (a.count - 1) ** 0.5, root_b / (b.count - 1) ** 0.5
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = (a.mean - b.mean).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * cross
    return max(float(distance), 0.0)


def _reduce_rows(rows: Tensor) -> Tensor:
    """Return (min(k, D), D) rows with the same R^T R as (k, D) rows."""
    return torch.linalg.qr(rows, mode="r").R
