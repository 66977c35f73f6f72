"""Inception-v3, the network of FID.

Shapes: B batch; H, W pixels.
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
    """The 2048 pooled features of the Inception-v3 on which FID is defined (arXiv 1706.08500), by torch-fidelity.

    Images are resized to 299 x 299 as in TensorFlow 1 (bilinear, not antialiased), like for published values. By default,
    the FID of torchmetrics antialiases and gives other values.

    Args:
        weights: the file or its folder; None: see `smalti.eval.pretrained_weights.resolve`.

    Raises:
        WeightsUnavailableError: the weights are not available.
        SmaltiError: the file is damaged.
    """

    metric = "rfid"
    comparable = True
    definition = "Inception-v3 pooled features"
    dim = 2048

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        file = resolve("inception", weights)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        try:
            # torch-fidelity unpickles without restrictions, so check first that the file contains only tensors.
            torch.load(file, map_location="meta", weights_only=True)
            with preserve_random_state():
                self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(file))
        except Exception as error:
            raise SmaltiError(f"{file} cannot be read as Inception weights ({error}): download it again.") from error
        self.provenance = {
            "network": "inception-v3-compat, 299 x 299 bilinear as in TensorFlow 1",
            **file_provenance(file),
        }
        self.freeze()

    def features(self, samples: Tensor) -> Tensor:
        """Return (B, 2048) float32 features of (B, 3, H, W) uint8."""
        return self.network(samples)[0]
