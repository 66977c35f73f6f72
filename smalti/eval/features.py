"""Image features whose distributions the Fréchet distance compares: the published Inception's, and a stand-in's.

Both are called the same way: `network(images)` with uint8 (B, 3, H, W) gives (B, D) features.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.eval.frozen import EffLite0, Frozen, described, own_random_state
from smalti.eval.metrics import to_pixels
from smalti.eval.perceptual import warn_of_stand_in
from smalti.eval.weights import WeightsUnavailableError, resolve

NETWORKS = ("inception", "efflite0")
"""What `feature_network` builds."""


class Features(Frozen):
    """A network from uint8 images to features.

    Attributes:
        dim: number of features D.
    """

    dim: int

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, D) float32."""
        raise NotImplementedError


class InceptionFeatures(Features):
    """The 2048 pooled features of the Inception-v3 that FID is defined on (arXiv 1706.08500), by torch-fidelity.

    Images are resized to 299 x 299 as TensorFlow 1 did it (bilinear, no antialiasing), the resize that published values
    carry. torchmetrics' FID resizes with antialiasing unless told otherwise, and gives other numbers.

    Args:
        weights: the file or its folder; None: see `smalti.eval.weights.resolve`.

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
            with own_random_state():
                self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(file))
        except Exception as error:
            raise SmaltiError(f"{file} cannot be read as Inception weights ({error}): fetch it again.") from error
        self.provenance = {"network": "inception-v3-compat, 299 x 299 bilinear as in TensorFlow 1", **described(file)}
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, 2048) float32."""
        return self.network(images)[0]


class EffLite0Features(Features):
    """The stand-in: the 1280 pooled features of EfficientNet-Lite0; a distance of theirs is not an FID.

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
        self.provenance = {"network": "efficientnet-lite0, 224 x 224", **described(self.network.file)}
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, 1280) float32."""
        x = F.interpolate(to_pixels(images), size=(224, 224), mode="bilinear", antialias=True)
        return self.network.pooled(x)


def feature_network(network: str = "inception", weights: Path | None = None, stand_in: bool = True) -> Features:
    """The network that is asked for, or the stand-in where its weights cannot be had, which one warning says.

    Args:
        network: one of `NETWORKS`.
        weights: file or folder of Inception's weights; None: see `smalti.eval.weights.resolve`.
        stand_in: take `EffLite0Features` where the weights cannot be had.

    Raises:
        WeightsUnavailableError: the weights cannot be had and `stand_in` is False.
        MissingExtraError: the stand-in is needed and the extra "offline" is not installed.
        SmaltiError: an unknown name, or a file that is not what it should be.
    """
    if network not in NETWORKS:
        raise SmaltiError(f"No feature network is called '{network}': the names are {', '.join(NETWORKS)}.")
    if network == "efflite0":
        return EffLite0Features()
    try:
        return InceptionFeatures(weights)
    except WeightsUnavailableError as error:
        if not stand_in:
            raise
        warn_of_stand_in("rfid", EffLite0Features.metric, error)
        return EffLite0Features()
