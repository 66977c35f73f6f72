"""I3D, the network of FVD.

Shapes: B batch; T frames, H, W pixels.
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
    """The 400 logits of the I3D, trained on Kinetics-400, on which FVD is defined (arXiv 1812.01717).

    The file is StyleGAN-V's conversion of the original (arXiv 2112.14683), a TorchScript program that rescales the values
    and resizes frames to 224 x 224 regardless of their aspect ratio. Values depend on the number of clips, and on their
    number of frames, frame rate and size.

    Args:
        weights: the file or its folder; None: see `smalti.eval.pretrained_weights.resolve`.

    Raises:
        WeightsUnavailableError: the weights are not available.
        SmaltiError: the file is damaged.
    """

    metric = "rfvd"
    comparable = True
    definition = "I3D logits, all frames of a clip at once"
    dim = 400
    min_frames = 10  # with fewer frames, the strides leave nothing for the last pooling layer

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        file = resolve("i3d", weights)
        try:
            # The file is a program. It is safe to run because its complete SHA-256 is known.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch deprecates TorchScript, the only format of the published file
                self.network = torch.jit.load(str(file), map_location="cpu")
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise SmaltiError(f"{file} cannot be read as the I3D program ({reason}): download it again.") from error
        self.provenance = {
            "network": "I3D on Kinetics-400, logits, 224 x 224, all frames of a clip",
            **file_provenance(file),
        }
        self.freeze()

    def features(self, samples: Tensor) -> Tensor:
        """Return (B, 400) float32 features of (B, 3, T, H, W) uint8. One clip at a time, to bound memory."""
        clips = samples.float().split(1)
        return torch.cat([self.network(clip, rescale=True, resize=True, return_features=True) for clip in clips])
