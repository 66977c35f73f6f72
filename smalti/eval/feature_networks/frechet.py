"""Features whose distributions the Fréchet distance compares, of images and of clips: published networks' and stand-ins'.

All are called the same way: `network(samples)` with uint8 (B, 3, H, W), or (B, 3, T, H, W) where it looks at clips, gives
(B, D) features.

Shapes: B batch, T frames, H, W pixels, D features.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.base import FrozenNetwork


class FrechetNetwork(FrozenNetwork):
    """A network from uint8 images or clips to features.

    Attributes:
        dim: number of features D.
        least_frames: that a clip must have; 0: the network looks at images.
    """

    dim: int
    least_frames: int = 0

    def forward(self, samples: Tensor) -> Tensor:
        """Features of each sample.

        Args:
            samples: (B, 3, H, W) uint8 images; (B, 3, T, H, W) uint8 clips, T >= `least_frames`, where that is not 0.

        Returns:
            (B, D) float32.

        Raises:
            SmaltiError: clips for a network of images, or the reverse.
        """
        clips = samples.ndim == 5
        if clips != bool(self.least_frames):
            raise SmaltiError(
                f"{self.metric} is a metric of {'clips' if self.least_frames else 'images'}, and the samples are "
                f"{tuple(samples.shape)}: take {'inception for images' if self.least_frames else 'i3d for clips'}."
            )
        if clips and samples.shape[2] < self.least_frames:
            raise ValueError(f"{self.metric} needs {self.least_frames} frames, not {samples.shape[2]}.")
        return self.features(samples)

    @abstractmethod
    def features(self, samples: Tensor) -> Tensor:
        """What `forward` does, on inputs that were checked."""
