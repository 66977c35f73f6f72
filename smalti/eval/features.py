"""Features whose distributions the Fréchet distance compares, of images and of clips: published networks' and stand-ins'.

All are called the same way: `network(samples)` with uint8 (B, 3, H, W), or (B, 3, T, H, W) where it looks at clips, gives
(B, D) features.

Shapes: B batch, T frames, H, W pixels, D features.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.eval.frozen import EffLite0, Frozen, described, own_random_state
from smalti.eval.metrics import to_pixels
from smalti.eval.perceptual import warn_of_stand_in
from smalti.eval.weights import WeightsUnavailableError, resolve


class Features(Frozen):
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

    def features(self, samples: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, 2048) float32."""
        return self.network(samples)[0]


class I3DFeatures(Features):
    """The 400 logits of the I3D, trained on Kinetics-400, that FVD is defined on (arXiv 1812.01717).

    The file is StyleGAN-V's conversion of the original (arXiv 2112.14683), a TorchScript program that scales and resizes
    the frames to 224 x 224 by itself; a clip that is not square is squeezed. Values depend on the number of clips, on their
    frames, rate and size.

    Args:
        weights: the file or its folder; None: see `smalti.eval.weights.resolve`.

    Raises:
        WeightsUnavailableError: the weights cannot be had.
        SmaltiError: the file is not what it should be.
    """

    metric = "rfvd"
    comparable = True
    dim = 400
    least_frames = 10  # of fewer, the network's strides leave nothing to pool over

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        file = resolve("i3d", weights)
        try:
            # The file is a program: that its whole SHA-256 is known is what makes it safe to run.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls the format outdated; the published file has no other
                self.network = torch.jit.load(str(file), map_location="cpu")
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise SmaltiError(f"{file} cannot be read as the I3D program ({reason}): fetch it again.") from error
        self.provenance = {"network": "I3D on Kinetics-400, logits, 224 x 224, all frames of a clip", **described(file)}
        self.freeze()

    def features(self, samples: Tensor) -> Tensor:
        """(B, 3, T, H, W) uint8 to (B, 400) float32; one clip at a time, which bounds memory."""
        clips = samples.float().split(1)
        return torch.cat([self.network(clip, rescale=True, resize=True, return_features=True) for clip in clips])


class EffLite0Features(Features):
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
        self.provenance = {"network": "efficientnet-lite0, 224 x 224", **described(self.network.file)}
        self.freeze()

    def features(self, samples: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, 1280) float32."""
        return self.maps(samples).mean((2, 3))

    def maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, 1280, 7, 7) float32: `features` before the mean over positions."""
        return self.network.last(F.interpolate(to_pixels(images), size=(224, 224), mode="bilinear", antialias=True))


class EffLite0Motion(EffLite0Features):
    """The stand-in for I3D: looks and motion of a clip by EfficientNet-Lite0; a distance of theirs is not an FVD.

    With h_t(p) the map (1280, 7, 7) of frame t at position p, the features are

        looks   1/T      sum_t     mean_p  h_t(p)
        motion  1/(T-1)  sum_{t>1} mean_p |h_t(p) - h_{t-1}(p)|

    Frames in a wrong order leave the looks and move the motion; a clip that runs backwards has the features of the clip.

    Raises:
        MissingExtraError: the extra "offline" is not installed.
    """

    metric = "fvd_efflite0"
    dim = 2 * EffLite0Features.dim
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


_PUBLISHED: dict[str, tuple[type[InceptionFeatures | I3DFeatures], type[EffLite0Features]]] = {
    "inception": (InceptionFeatures, EffLite0Features),
    "i3d": (I3DFeatures, EffLite0Motion),
}
"""Networks that need weights, and their stand-ins."""

_STAND_INS: dict[str, type[EffLite0Features]] = {"efflite0": EffLite0Features, "efflite0_motion": EffLite0Motion}

NETWORKS = (*_PUBLISHED, *_STAND_INS)
"""What `feature_network` builds: inception and efflite0 look at images, i3d and efflite0_motion at clips."""


def feature_network(network: str = "inception", weights: Path | None = None, stand_in: bool = True) -> Features:
    """The network that is asked for, or its stand-in where its weights cannot be had, which one warning says.

    Args:
        network: one of `NETWORKS`.
        weights: file or folder of the published network's weights; None: see `smalti.eval.weights.resolve`.
        stand_in: take the stand-in where the weights cannot be had.

    Raises:
        WeightsUnavailableError: the weights cannot be had and `stand_in` is False.
        MissingExtraError: the stand-in is needed and the extra "offline" is not installed.
        SmaltiError: an unknown name, or a file that is not what it should be.
    """
    if network in _STAND_INS:
        return _STAND_INS[network]()
    if network not in _PUBLISHED:
        raise SmaltiError(f"No feature network is called '{network}': the names are {', '.join(NETWORKS)}.")
    published, substitute = _PUBLISHED[network]
    try:
        return published(weights)
    except WeightsUnavailableError as error:
        if not stand_in:
            raise
        warn_of_stand_in(published.metric, substitute.metric, error)
        return substitute()
