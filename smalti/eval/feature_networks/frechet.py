"""Base class of the networks whose features the Fréchet distance compares.

Shapes: B batch; T frames, H, W pixels; D features.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.base import FrozenNetwork


class FrechetNetwork(FrozenNetwork):
    """A network that maps uint8 images, or uint8 clips, to features.

    Attributes:
        dim: number of features D.
        min_frames: minimum number of frames of a clip; 0 if the network takes images.
    """

    dim: int
    min_frames: int = 0

    def forward(self, samples: Tensor) -> Tensor:
        """Return the features of each sample.

        Args:
            samples: images (B, 3, H, W) uint8, or clips (B, 3, T, H, W) uint8 with T >= `min_frames` if that is not 0.

        Returns:
            (B, D) float32.

        Raises:
            SmaltiError: clips were passed to a network for images, or the reverse.
            ValueError: the clips are too short.
        """
        clips = samples.ndim == 5
        if clips != bool(self.min_frames):
            raise SmaltiError(
                f"{self.metric} is a metric of {'clips' if self.min_frames else 'images'}, but the samples have shape "
                f"{tuple(samples.shape)}: use {'inception for images' if self.min_frames else 'i3d for clips'}."
            )
        if clips and samples.shape[2] < self.min_frames:
            raise ValueError(f"{self.metric} needs at least {self.min_frames} frames, not {samples.shape[2]}.")
        return self.features(samples)

    @abstractmethod
    def features(self, samples: Tensor) -> Tensor:
        """Implement `forward` for inputs of valid shapes."""
