"""Features whose distributions the Fréchet distance compares, of images and of clips: published networks' and stand-ins'.

All are called the same way: `network(samples)` with uint8 (B, 3, H, W), or (B, 3, T, H, W) where it looks at clips, gives
(B, D) features.

Shapes: B batch, T frames, H, W pixels, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.eval.feature_networks.base import file_provenance
from smalti.eval.feature_networks.efflite0 import EffLite0
from smalti.eval.feature_networks.frechet import FrechetNetwork
from smalti.pixels import uint8_to_pixels


class EffLite0Network(FrechetNetwork):
    """The stand-in for Inception: the 1280 pooled features of EfficientNet-Lite0; a distance of theirs is not an FID.

    Images are resized to 224 x 224 (bilinear, antialiased), the size that the network was trained on.

    Raises:
        MissingExtraError: the extra "offline" is not installed.
    """

    metric = "fd_efflite0"
    comparable = False
    dim = 1280

    def __init__(self) -> None:
        super().__init__()
        self.network = EffLite0()
        self.provenance = {"network": "efficientnet-lite0, 224 x 224", **file_provenance(self.network.file)}
        self.freeze()

    def features(self, samples: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, 1280) float32."""
        return self.maps(samples).mean((2, 3))

    def maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, 1280, 7, 7) float32: `features` before the mean over positions."""
        return self.network.last(F.interpolate(uint8_to_pixels(images), size=(224, 224), mode="bilinear", antialias=True))


class EffLite0MotionNetwork(EffLite0Network):
    """The stand-in for I3D: looks and motion of a clip by EfficientNet-Lite0; a distance of theirs is not an FVD.

    With h_t(p) the map (1280, 7, 7) of frame t at position p, the features are

        looks   1/T      sum_t     mean_p  h_t(p)
        motion  1/(T-1)  sum_{t>1} mean_p |h_t(p) - h_{t-1}(p)|

    Frames in a wrong order leave the looks and move the motion; a clip that runs backwards has the features of the clip.

    Raises:
        MissingExtraError: the extra "offline" is not installed.
    """

    metric = "fvd_efflite0"
    dim = 2 * EffLite0Network.dim
    least_frames = 2

    def features(self, samples: Tensor) -> Tensor:
        """(B, 3, T, H, W) uint8 to (B, 2560) float32; frame by frame, so memory does not grow with T."""
        before = self.maps(samples[:, :, 0])
        looks, motion = before.mean((2, 3)), torch.zeros_like(before.mean((2, 3)))
        for frame in samples[:, :, 1:].unbind(2):
            now = self.maps(frame)
            looks += now.mean((2, 3))
            motion += (now - before).abs().mean((2, 3))
            before = now
        return torch.cat([looks / samples.shape[2], motion / (samples.shape[2] - 1)], dim=1)
