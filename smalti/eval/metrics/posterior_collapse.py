"""Posterior collapse: channels of a KL bottleneck that carry no information.

Shapes: B batch; N positions; C channels.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch

from smalti.eval.metrics.latent_base import LatentMetric
from smalti.tokenizers.bottlenecks.kl import KL
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch, Latents

COLLAPSED_NATS = 0.01
"""Mean KL divergence per position below which a channel has collapsed: its mean varies by a seventh of its noise."""


class PosteriorCollapse(LatentMetric):
    """The share of the channels whose posterior equals the prior: KL(N(mean, variance) || N(0, 1)) is nearly 0."""

    name = "posterior_collapse"
    higher_is_better = False
    range = (0.0, 1.0)
    comparable = False
    definition = (
        f"share of the channels whose KL divergence from the prior is below {COLLAPSED_NATS} nats per position. Predicts "
        "channels that a generator has to model but the decoder ignores"
    )

    def reset(self) -> None:
        """Discard all samples."""
        self._count = 0
        self._nats = torch.zeros(0, dtype=torch.float64)

    def find_obstacle(self, tokenizer: Tokenizer) -> str | None:
        """Tokenizers without a KL bottleneck have no posterior."""
        return None if isinstance(tokenizer.bottleneck, KL) else "the tokenizer has no KL bottleneck"

    def update_latents(self, tokenizer: Tokenizer, batch: Batch, latents: Latents) -> None:
        """Add the divergences of the channels. See `LatentMetric.update_latents`."""
        assert latents.code.log_variance is not None
        mean, log_variance = (x.detach().flatten(0, 1).double().cpu() for x in (latents.z, latents.code.log_variance))
        nats = ((mean.square() + log_variance.exp() - 1 - log_variance) / 2).sum(0)
        self._add(len(mean), nats)

    def compute(self, candidate: str) -> float:
        """Return the share."""
        return float((self._nats / self._count < COLLAPSED_NATS).double().mean())

    @property
    def details(self) -> dict[str, Any]:
        """Mean KL divergence of each channel in nats per position, and of all channels in bits."""
        nats = self._nats / self._count
        return {"nats": nats.tolist(), "bits_per_position": float(nats.sum()) / math.log(2)}

    def merge(self, other: Self) -> None:
        """Add the divergences of another process."""
        if other._count:
            self._add(other._count, other._nats)

    def _add(self, count: int, nats: torch.Tensor) -> None:
        self._nats = self._nats + nats if self._count else nats
        self._count += count
