"""Base class of perceptual distances between images."""

from __future__ import annotations

from abc import abstractmethod
from math import inf

from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.base import FrozenNetwork


class PerceptualNetwork(FrozenNetwork):
    """A perceptual distance between two images, differentiable in both; 0 for identical images.

    Attributes:
        min_size: minimum height and width of an image in pixels.
        range: (lowest, highest) possible distance.
    """

    min_size: int = 16
    range: tuple[float, float] = (0.0, inf)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distance of each pair.

        Args:
            x: (B, 3, H, W) in [-1, 1], of any floating-point type.
            y: like `x`.

        Returns:
            (B,) float32, each >= 0.

        Raises:
            SmaltiError: the images are smaller than `min_size`.
        """
        if x.shape != y.shape or x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(
                f"A perceptual distance takes two (B, 3, H, W), not {tuple(x.shape)} and {tuple(y.shape)}."
            )
        if min(x.shape[2:]) < self.min_size:
            raise SmaltiError(
                f"{self.metric} needs images of at least {self.min_size} x {self.min_size} pixels, not "
                f"{x.shape[2]} x {x.shape[3]}: use larger images, or leave the metric out."
            )
        return self.distance(x.float(), y.float())

    @abstractmethod
    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Implement `forward` for float32 inputs of valid shapes."""
