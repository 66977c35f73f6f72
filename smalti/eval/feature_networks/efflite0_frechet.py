"""The proxies for Inception and I3D, on EfficientNet-Lite0.

Shapes: B batch; T frames, H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.eval.feature_networks.base import file_provenance
from smalti.eval.feature_networks.efflite0 import EffLite0
from smalti.eval.feature_networks.frechet import FrechetNetwork
from smalti.pixels import uint8_to_pixels


class EffLite0Network(FrechetNetwork):
    """The 1280 pooled features of EfficientNet-Lite0. A proxy for Inception: their Fréchet distance is not an FID.

    Images are resized to 224 x 224 (bilinear, antialiased), the size that the network was trained on.

    Raises:
        MissingExtraError: the extra "offline" is not installed.
    """

    metric = "fd_efflite0"
    comparable = False
    definition = "pooled EfficientNet-Lite0 features (not FID)"
    dim = 1280

    def __init__(self) -> None:
        super().__init__()
        self.network = EffLite0()
        self.provenance = {"network": "efficientnet-lite0, 224 x 224", **file_provenance(self.network.file)}
        self.freeze()

    def features(self, samples: Tensor) -> Tensor:
        """Return (B, 1280) float32 features of (B, 3, H, W) uint8."""
        return self.feature_maps(samples).mean((2, 3))

    def feature_maps(self, images: Tensor) -> Tensor:
        """Return the features before pooling, (B, 1280, 7, 7) float32, of (B, 3, H, W) uint8."""
        return self.network.resized_features(uint8_to_pixels(images))


class EffLite0MotionNetwork(EffLite0Network):
    """Appearance and motion features by EfficientNet-Lite0. A proxy for I3D: their Fréchet distance is not an FVD.

    With h_t(p) the feature map (1280, 7, 7) of frame t at position p, the features are

        appearance  1/T      sum_t     mean_p  h_t(p)
        motion      1/(T-1)  sum_{t>1} mean_p |h_t(p) - h_{t-1}(p)|

    Frames in the wrong order change the motion but not the appearance. A reversed clip has the features of the clip.

    Raises:
        MissingExtraError: the extra "offline" is not installed.
    """

    metric = "fvd_efflite0"
    definition = "means of EfficientNet-Lite0 features and of their changes from frame to frame (not FVD)"
    dim = 2 * EffLite0Network.dim
    min_frames = 2

    def features(self, samples: Tensor) -> Tensor:
        """Return (B, 2560) float32 features of (B, 3, T, H, W) uint8, frame by frame: memory does not grow with T."""
        previous = self.feature_maps(samples[:, :, 0])
        appearance, motion = previous.mean((2, 3)), torch.zeros_like(previous.mean((2, 3)))
        for frame in samples[:, :, 1:].unbind(2):
            current = self.feature_maps(frame)
            appearance += current.mean((2, 3))
            motion += (current - previous).abs().mean((2, 3))
            previous = current
        return torch.cat([appearance / samples.shape[2], motion / (samples.shape[2] - 1)], dim=1)
