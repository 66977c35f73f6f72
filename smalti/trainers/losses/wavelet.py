"""A loss on the spatial and temporal frequencies of a video.

Shapes: B batch, C channels, T frames, H, W pixels.
"""

from __future__ import annotations

import itertools
from typing import cast

import torch
from torch import Tensor

from smalti.errors import MissingExtraError, SmaltiError
from smalti.trainers.losses.base import ReconstructionLoss

BANDS = tuple("".join(band) for band in itertools.product("ad", repeat=3))
"""Bands of one level of a 3D Haar transform: along T, H and W, `a` (average of neighbors) or `d` (their difference)."""


class WaveletLoss(ReconstructionLoss):
    """Mean absolute error of the 8 bands of a 3D Haar transform (LTX-Video, arXiv 2501.00103, section 3.1), by ptwt.

        loss = 1/8 sum over bands b of w_b mean |b(reconstruction) - b(original)|

    The transform is orthonormal: noise of standard deviation s has standard deviation s in every band, and all bands
    contribute equally. A smooth error appears in the band "aaa" only. The other 7 bands measure detail and motion, where an
    error costs more than a smooth error of the same size. LTX-Video does not publish the weights of the bands.

    The last element of an axis of odd length is repeated. An image, or a clip of one frame, is transformed as a clip of two
    equal frames, whose temporal differences are zero.

    Args:
        weights: weight w_b by band, see `BANDS`; 1 for bands that are not given.

    Raises:
        SmaltiError: `weights` names an unknown band.
        MissingExtraError: ptwt is not installed.
    """

    all_channels = True

    def __init__(self, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        weights = weights or {}
        unknown = sorted(weights.keys() - set(BANDS))
        if unknown:
            raise SmaltiError(
                f"The wavelet loss has a weight for the unknown band '{unknown[0]}': the bands are {', '.join(BANDS)}."
            )
        self.weights = {band: weights.get(band, 1.0) for band in BANDS}
        haar_bands(torch.zeros(1, 3, 2, 2, 2))  # if ptwt is missing, fail now and not in the first step

    def forward(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """Return the scalar loss, computed in float32 under any autocast.

        Args:
            reconstruction: (B, 3, H, W) or (B, 3, T, H, W).
            original: pixels of the same shape.
        """
        # The transform is linear: the transform of the difference is the difference of the transforms.
        error = haar_bands(reconstruction.float() - original.float())
        return torch.stack([weight * error[band].abs().mean() for band, weight in self.weights.items()]).mean()


def haar_bands(x: Tensor) -> dict[str, Tensor]:
    """Compute one level of the 3D Haar transform.

    Args:
        x: (B, C, H, W) or (B, C, T, H, W), float32 or float64. The last element of an axis of odd length is repeated.

    Returns:
        One (B, C, ceil(T / 2), ceil(H / 2), ceil(W / 2)) tensor per band, by the names in `BANDS`.

    Raises:
        MissingExtraError: ptwt is not installed.
    """
    try:
        import ptwt
    except ModuleNotFoundError as error:
        raise MissingExtraError("ptwt", "wavelets", "Wavelet losses") from error
    with torch.autocast(x.device.type, enabled=False):
        clip = x.unsqueeze(2) if x.ndim == 4 else x
        transformed = ptwt.wavedec3(clip, "haar", mode="constant", level=1)  # pyright: ignore[reportPrivateImportUsage]
    low, high = cast(tuple[Tensor, dict[str, Tensor]], transformed)
    return {"aaa": low, **high}
