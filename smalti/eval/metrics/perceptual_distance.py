"""Perceptual distances by a network: LPIPS, its proxy, or shift-tolerant LPIPS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor

from smalti.eval.feature_networks.efflite0_perceptual import EffLite0Perceptual
from smalti.eval.feature_networks.perceptual import PerceptualNetwork
from smalti.eval.feature_networks.selection import PERCEPTUAL_NETWORKS, perceptual_network
from smalti.eval.metrics.base import FrameMetric, Metric
from smalti.pixels import uint8_to_pixels


class PerceptualDistance(FrameMetric):
    """The distance that a perceptual network computes. The network provides name, comparability and definition.

    Args:
        network: see `smalti.eval.feature_networks.selection.perceptual_network`.
        name: name of the metric; None for the name that the network gives it. Networks of LPIPS call it "lpips", both with
            VGG16 and with AlexNet: name one of them if you measure both.
    """

    higher_is_better = False

    def __init__(self, network: PerceptualNetwork, name: str | None = None) -> None:
        super().__init__()
        self.network = network
        self.name = name or network.metric
        self.range = network.range
        self.definition = f"{network.definition}, {self.reduction}"
        self.comparable = network.comparable
        self.provenance = network.provenance

    @classmethod
    def variants(cls) -> dict[str, Callable[[Path | None], Metric]]:
        """Return a constructor for every perceptual network. It raises an error if the weights are not available."""
        names = {network: network for network in PERCEPTUAL_NETWORKS} | {"efflite0": EffLite0Perceptual.metric}
        return {name: partial(cls._build, name, network) for network, name in names.items()}

    @classmethod
    def _build(cls, name: str, network: str, weights: Path | None) -> PerceptualDistance:
        return cls(perceptual_network(network, weights, allow_proxy=False), name)

    def measure_images(self, original: Tensor, candidate: Tensor) -> Tensor:
        """Return (B,) float32."""
        return self.network(uint8_to_pixels(original), uint8_to_pixels(candidate))
