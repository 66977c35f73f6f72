"""Fréchet distances between originals and reconstructions: rFID, rFVD, or their proxies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Self

from torch import Tensor

from smalti.eval.feature_networks.frechet import FrechetNetwork
from smalti.eval.feature_networks.selection import FRECHET_NETWORKS, frechet_network
from smalti.eval.frechet import FeatureStatistics, frechet_distance
from smalti.eval.metrics.base import Metric


class FrechetDistance(Metric):
    """The Fréchet distance between the features of the originals and of the candidates.

    The network provides name, comparability, media, minimum number of frames and definition.

    Args:
        network: see `smalti.eval.feature_networks.selection.frechet_network`.
    """

    higher_is_better = False
    range = (0.0, inf)
    min_samples = 2  # for a covariance

    def __init__(self, network: FrechetNetwork) -> None:
        self.network = network
        self.dim = network.dim
        super().__init__()
        self.name = network.metric
        self.definition = (
            f"Fréchet distance between the features of originals and reconstructions: {network.definition}"
        )
        self.comparable = network.comparable
        self.media = ("clips",) if network.min_frames else ("images",)
        self.min_frames = max(network.min_frames, 1)
        self.provenance = network.provenance

    @classmethod
    def variants(cls) -> dict[str, Callable[[Path | None], Metric]]:
        """Return a constructor for every feature network. It raises an error if the weights are not available."""
        return {network.metric: partial(cls._build, name) for name, network in FRECHET_NETWORKS.items()}

    @classmethod
    def _build(cls, network: str, weights: Path | None) -> FrechetDistance:
        return cls(frechet_network(network, weights, allow_proxy=False))

    @property
    def note(self) -> str:
        """The number of samples, on which the value depends."""
        return (
            f"computed from {self._original.count} samples; the value depends on their number (arXiv 1911.07023), so "
            "compare only values from equally many samples"
        )

    def reset(self) -> None:
        """Discard all samples."""
        self._original = FeatureStatistics(self.dim)
        self._candidates: dict[str, FeatureStatistics] = {}

    def update(self, original: Tensor, candidates: Mapping[str, Tensor], names: Sequence[str]) -> None:
        """Add the features of a batch. See `Metric.update`."""
        self._original.add(self.network(original))
        for name, samples in candidates.items():
            self._statistics(name).add(self.network(samples))

    def compute(self, candidate: str) -> float:
        """Return the distance between the originals and a candidate."""
        return frechet_distance(self._original, self._candidates[candidate])

    def merge(self, other: Self) -> None:
        """Add the features of another process."""
        self._original.merge(other._original)
        for name, statistics in other._candidates.items():
            self._statistics(name).merge(statistics)

    def _statistics(self, candidate: str) -> FeatureStatistics:
        return self._candidates.setdefault(candidate, FeatureStatistics(self.dim))
