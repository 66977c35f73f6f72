"""The spectrum of latents: how much of them is high spatial frequencies.

Shapes: B batch; C channels; t, h, w latent positions.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from smalti.eval.metrics.latent_base import LatentMetric
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch, Latents

BANDS = 8


class LatentSpectrum(LatentMetric):
    """The share of the variance of latents at spatial frequencies that half the resolution cannot represent.

    A discrete cosine transform of each channel of each frame; a coefficient with the frequencies (u, v), as fractions of
    the highest ones, is high if max(u, v) >= 1/2. White noise has 0.75, photographs a few hundredths. Diffusion models
    generate low frequencies first and with smaller errors (arXiv 2502.14831).
    """

    name = "latent_spectrum"
    higher_is_better = False
    range = (0.0, 1.0)
    comparable = False
    definition = (
        "share of the power of latents, without their mean, at spatial frequencies of at least half of the highest one "
        "(discrete cosine transform per frame and channel, each channel scaled to the same power, averaged over "
        "channels); 0.75 for white noise. Predicts how well a diffusion model, which generates high frequencies last and "
        "worst, learns the latents (arXiv 2502.14831)"
    )

    def reset(self) -> None:
        """Discard all samples."""
        self._power: Tensor | None = None

    def update_latents(self, tokenizer: Tokenizer, batch: Batch, latents: Latents) -> None:
        """Add the power of each band and channel. See `LatentMetric.update_latents`."""
        for grid in latents.to_grids():
            power = band_power(grid.transpose(1, 2).flatten(0, 1)).cpu()
            self._power = power if self._power is None else self._power + power

    def compute(self, candidate: str) -> float:
        """Return the share of the upper half of the bands."""
        return float(self._shares()[BANDS // 2 :].sum())

    @property
    def details(self) -> dict[str, Any]:
        """Shares of the bands, from the lowest to the highest frequencies."""
        return {"bands": self._shares().tolist()}

    def merge(self, other: Self) -> None:
        """Add the power of another process."""
        if other._power is not None:
            self._power = other._power if self._power is None else self._power + other._power

    def _shares(self) -> Tensor:
        assert self._power is not None
        total = self._power.sum(0)
        used = total > 1e-12  # a constant channel has no spectrum but that of rounding errors
        return (self._power[:, used] / total[used]).mean(1) if used.any() else self._power.new_zeros(BANDS)


def band_power(frames: Tensor) -> Tensor:
    """Return the power of each of `BANDS` bands of max(u, v), without the mean, summed over frames: (BANDS, C) float64.

    Args:
        frames: (B, C, h, w).
    """
    x = frames.double()
    rows, columns = (cosine_basis(n).to(x.device) for n in x.shape[2:])
    power = (rows @ x @ columns.T).square().sum(0)
    power[:, 0, 0] = 0
    u, v = (torch.arange(n, device=x.device) / n for n in x.shape[2:])
    band = (torch.maximum(u[:, None], v[None]) * BANDS).long().flatten()
    return power.new_zeros(BANDS, len(power)).index_add_(0, band, power.flatten(1).T)


def cosine_basis(n: int) -> Tensor:
    """Return the orthonormal discrete cosine transform (type II) of n values, (n, n) float64, one frequency per row."""
    positions = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * positions[:, None] * (positions[None] + 0.5)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis
