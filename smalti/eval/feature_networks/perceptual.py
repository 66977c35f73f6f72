"""Perceptual distances between images: the published LPIPS, and a stand-in for machines without its weights.

Both are called the same way: `network(x, y)` with x, y (B, 3, H, W) in [-1, 1] gives (B,) distances, differentiable in
both.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.base import FrozenNetwork


class PerceptualNetwork(FrozenNetwork):
    """A perceptual distance between pairs of images; 0 for equal ones."""

    smallest = 16
    """Height and width, in pixels, that an image must have at least."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of pairs.

        Args:
            x: (B, 3, H, W) in [-1, 1], of any floating type.
            y: the same.

        Returns:
            (B,) float32, each >= 0.

        Raises:
            SmaltiError: images smaller than `smallest`.
        """
        if x.shape != y.shape or x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(
                f"A perceptual distance takes two (B, 3, H, W), not {tuple(x.shape)} and {tuple(y.shape)}."
            )
        if min(x.shape[2:]) < self.smallest:
            raise SmaltiError(
                f"{self.metric} needs images of {self.smallest} x {self.smallest} pixels or more, not "
                f"{x.shape[2]} x {x.shape[3]}: give it larger ones, or leave the metric out."
            )
        return self.distance(x.float(), y.float())

    @abstractmethod
    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """What `forward` does, on inputs that were checked."""
