"""Features whose distributions the Fréchet distance compares, of images and of clips: published networks' and stand-ins'.

All are called the same way: `network(samples)` with uint8 (B, 3, H, W), or (B, 3, T, H, W) where it looks at clips, gives
(B, D) features.

Shapes: B batch, T frames, H, W pixels, D features.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.base import file_provenance, preserve_random_state
from smalti.eval.feature_networks.frechet import FrechetNetwork
from smalti.eval.pretrained_weights import resolve


class InceptionNetwork(FrechetNetwork):
    """The 2048 pooled features of the Inception-v3 that FID is defined on (arXiv 1706.08500), by torch-fidelity.

    Images are resized to 299 x 299 as TensorFlow 1 did it (bilinear, no antialiasing), the resize that published values
    carry. torchmetrics' FID resizes with antialiasing unless told otherwise, and gives other numbers.

    Args:
        weights: the file or its folder; None: see `smalti.eval.pretrained_weights.resolve`.

    Raises:
        WeightsUnavailableError: the weights cannot be had.
        SmaltiError: the file is not what it should be.
    """

    metric = "rfid"
    comparable = True
    dim = 2048

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        file = resolve("inception", weights)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        try:
            # torch-fidelity unpickles without limits; a file that holds more than tensors must not get there.
            torch.load(file, map_location="meta", weights_only=True)
            with preserve_random_state():
                self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(file))
        except Exception as error:
            raise SmaltiError(f"{file} cannot be read as Inception weights ({error}): fetch it again.") from error
        self.provenance = {"network": "inception-v3-compat, 299 x 299 bilinear as in TensorFlow 1", **file_provenance(file)}
        self.freeze()

    def features(self, samples: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, 2048) float32."""
        return self.network(samples)[0]
