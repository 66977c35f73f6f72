"""Features whose distributions the Fréchet distance compares, of images and of clips: published networks' and stand-ins'.

All are called the same way: `network(samples)` with uint8 (B, 3, H, W), or (B, 3, T, H, W) where it looks at clips, gives
(B, D) features.

Shapes: B batch, T frames, H, W pixels, D features.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.base import file_provenance
from smalti.eval.feature_networks.frechet import FrechetNetwork
from smalti.eval.pretrained_weights import resolve


class I3DNetwork(FrechetNetwork):
    """The 400 logits of the I3D, trained on Kinetics-400, that FVD is defined on (arXiv 1812.01717).

    The file is StyleGAN-V's conversion of the original (arXiv 2112.14683), a TorchScript program that scales and resizes
    the frames to 224 x 224 by itself; a clip that is not square is squeezed. Values depend on the number of clips, on their
    frames, rate and size.

    Args:
        weights: the file or its folder; None: see `smalti.eval.pretrained_weights.resolve`.

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
        self.provenance = {"network": "I3D on Kinetics-400, logits, 224 x 224, all frames of a clip", **file_provenance(file)}
        self.freeze()

    def features(self, samples: Tensor) -> Tensor:
        """(B, 3, T, H, W) uint8 to (B, 400) float32; one clip at a time, which bounds memory."""
        clips = samples.float().split(1)
        return torch.cat([self.network(clip, rescale=True, resize=True, return_features=True) for clip in clips])
