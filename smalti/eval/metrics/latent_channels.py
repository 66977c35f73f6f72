"""Statistics of the channels of latents.

Shapes: B batch; N positions; C channels.
"""

from __future__ import annotations

from math import inf
from typing import Any, Self

import torch

from smalti.eval.metrics.latent_base import LatentMetric
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch, Latents


class LatentChannels(LatentMetric):
    """The effective number of channels: exp of the entropy of the normalized eigenvalues of their covariance.

    The effective rank of Roy and Vetterli (EUSIPCO 2007), over all positions of all samples.
    """

    name = "effective_channels"
    higher_is_better = True
    range = (0.0, inf)
    comparable = False
    definition = (
        "exp of the entropy of the eigenvalues of the covariance of the channels, divided by their sum: from 1, if one "
        "direction has all variance, to the number of channels, if they are uncorrelated with equal variances. Predicts "
        "whether one scaling factor suffices to normalize the latents for a generator, and how many channels it has to "
        "model. Means, standard deviations and excess kurtosis per channel say how far they are from the standard normal "
        "distribution from which a diffusion model starts"
    )

    def reset(self) -> None:
        """Discard all samples."""
        self._count = 0
        self._moments = self._scatter = torch.zeros(0, dtype=torch.float64)

    def update_latents(self, tokenizer: Tokenizer, batch: Batch, latents: Latents) -> None:
        """Add the moments of the channels. See `LatentMetric.update_latents`."""
        x = latents.z.detach().flatten(0, 1).double().cpu()
        powers = torch.stack([x.pow(k).sum(0) for k in (1, 2, 3, 4)])
        scatter = x.T @ x
        self._add(len(x), powers, scatter)

    def compute(self, candidate: str) -> float:
        """Return the effective number of channels; 0 if all are constant."""
        mean = self._moments[0] / self._count
        values = torch.linalg.eigvalsh(self._scatter / self._count - torch.outer(mean, mean)).clamp(min=0)
        if float(values.sum()) <= 1e-12:
            return 0.0
        return float(torch.special.entr(values / values.sum()).sum().exp())

    @property
    def details(self) -> dict[str, Any]:
        """Mean, standard deviation and excess kurtosis of each channel."""
        m1, m2, m3, m4 = self._moments / self._count
        variance = (m2 - m1**2).clamp(min=0)
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        kurtosis = torch.where(variance > 1e-12, fourth / variance.clamp(min=1e-12) ** 2 - 3, 0.0)
        return {"mean": m1.tolist(), "std": variance.sqrt().tolist(), "excess_kurtosis": kurtosis.tolist()}

    def merge(self, other: Self) -> None:
        """Add the moments of another process."""
        if other._count:
            self._add(other._count, other._moments, other._scatter)

    def _add(self, count: int, moments: torch.Tensor, scatter: torch.Tensor) -> None:
        if not self._count:
            self._moments, self._scatter = torch.zeros_like(moments), torch.zeros_like(scatter)
        self._count += count
        self._moments = self._moments + moments
        self._scatter = self._scatter + scatter
