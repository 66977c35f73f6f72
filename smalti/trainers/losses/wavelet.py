"""A loss on the frequencies of a video.

Shapes: B batch, T frames, H, W pixels.
"""

from __future__ import annotations

import itertools
from typing import cast

import torch
from torch import Tensor, nn

from smalti.errors import MissingExtraError, SmaltiError

BANDS = tuple("".join(band) for band in itertools.product("ad", repeat=3))
"""Bands of one level of a 3-D transform: for T, H and W, `a` (means of neighbours) or `d` (their differences)."""


class WaveletLoss(nn.Module):
    """Mean absolute error of the 8 bands of a 3-D Haar transform (LTX-Video, arXiv 2501.00103, section 3.1), by ptwt.

        loss = 1/8 sum over bands b of w_b mean |b(x) - b(y)|

    The transform is orthonormal, so noise of deviation s has deviation s in every band, and costs as much in each; what is
    smooth in the error is in the band "aaa" alone. Hence an error in detail and motion costs more than a smooth one of the
    same size: 7 of the 8 bands see nothing else. LTX-Video publishes no weights of the bands.

    An axis of odd length repeats its last element. So an image, and a clip of one frame, is a still clip of two: its
    differences over time are zero.

    Args:
        weights: w of bands, see `BANDS`; 1 where none is given.

    Raises:
        SmaltiError: a weight for a band that is none.
        MissingExtraError: ptwt is not installed.
    """

    def __init__(self, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        weights = weights or {}
        unknown = sorted(weights.keys() - set(BANDS))
        if unknown:
            raise SmaltiError(
                f"The wavelet loss is given a weight for the band '{unknown[0]}', but its bands are {', '.join(BANDS)}."
            )
        self.weights = {band: weights.get(band, 1.0) for band in BANDS}
        bands(torch.zeros(1, 3, 2, 2, 2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The scalar loss of (B, 3, H, W) or (B, 3, T, H, W) and another, in float32 whatever the autocast."""
        # The transform is linear: that of the difference is the difference of the transforms.
        error = bands(x.float() - y.float())
        return torch.stack([weight * error[band].abs().mean() for band, weight in self.weights.items()]).mean()


def bands(x: Tensor) -> dict[str, Tensor]:
    """One level of the 3-D Haar transform.

    Args:
        x: (B, C, H, W) or (B, C, T, H, W), float32 or float64; odd axes repeat their last element.

    Returns:
        (B, C, ceil(T / 2), ceil(H / 2), ceil(W / 2)) a band, by the names of `BANDS`.

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
