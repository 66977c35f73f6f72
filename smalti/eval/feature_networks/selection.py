"""Features whose distributions the Fréchet distance compares, of images and of clips: published networks' and stand-ins'.

All are called the same way: `network(samples)` with uint8 (B, 3, H, W), or (B, 3, T, H, W) where it looks at clips, gives
(B, D) features.

Shapes: B batch, T frames, H, W pixels, D features.
"""

from __future__ import annotations

import logging
from pathlib import Path

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.efflite0_frechet import EffLite0MotionNetwork, EffLite0Network
from smalti.eval.feature_networks.efflite0_perceptual import EffLite0Perceptual
from smalti.eval.feature_networks.frechet import FrechetNetwork
from smalti.eval.feature_networks.i3d import I3DNetwork
from smalti.eval.feature_networks.inception import InceptionNetwork
from smalti.eval.feature_networks.lpips import LPIPSNetwork
from smalti.eval.feature_networks.perceptual import PerceptualNetwork
from smalti.eval.pretrained_weights import WeightsUnavailableError

_PUBLISHED: dict[str, tuple[type[InceptionNetwork | I3DNetwork], type[EffLite0Network]]] = {
    "inception": (InceptionNetwork, EffLite0Network),
    "i3d": (I3DNetwork, EffLite0MotionNetwork),
}
"""Networks that need weights, and their stand-ins."""

_PROXIES: dict[str, type[EffLite0Network]] = {"efflite0": EffLite0Network, "efflite0_motion": EffLite0MotionNetwork}

FRECHET_NETWORKS = (*_PUBLISHED, *_PROXIES)
"""What `feature_network` builds: inception and efflite0 look at images, i3d and efflite0_motion at clips."""


def frechet_network(network: str = "inception", weights: Path | None = None, stand_in: bool = True) -> FrechetNetwork:
    """The network that is asked for, or its stand-in where its weights cannot be had, which one warning says.

    Args:
        network: one of `NETWORKS`.
        weights: file or folder of the published network's weights; None: see `smalti.eval.pretrained_weights.resolve`.
        stand_in: take the stand-in where the weights cannot be had.

    Raises:
        WeightsUnavailableError: the weights cannot be had and `stand_in` is False.
        MissingExtraError: the stand-in is needed and the extra "offline" is not installed.
        SmaltiError: an unknown name, or a file that is not what it should be.
    """
    if network in _PROXIES:
        return _PROXIES[network]()
    if network not in _PUBLISHED:
        raise SmaltiError(f"No feature network is called '{network}': the names are {', '.join(FRECHET_NETWORKS)}.")
    published, substitute = _PUBLISHED[network]
    try:
        return published(weights)
    except WeightsUnavailableError as error:
        if not stand_in:
            raise
        _warn_about_proxy(published.metric, substitute.metric, error)
        return substitute()


PERCEPTUAL_NETWORKS = ("lpips_vgg", "lpips_alex", "efflite0")
"""What `perceptual_network` builds."""

log = logging.getLogger(__name__)


def perceptual_network(network: str = "lpips_vgg", weights: Path | None = None, stand_in: bool = True) -> PerceptualNetwork:
    """The network that is asked for, or the stand-in where its weights cannot be had, which one warning says.

    Args:
        network: one of `NETWORKS`.
        weights: file or folder of the backbone's weights; None: see `smalti.eval.pretrained_weights.resolve`.
        stand_in: take `EffLite0Perceptual` where the weights cannot be had.

    Raises:
        WeightsUnavailableError: the weights cannot be had and `stand_in` is False.
        MissingExtraError: the stand-in is needed and the extra "offline" is not installed.
        SmaltiError: an unknown name, or a file that is not what it should be.
    """
    if network not in PERCEPTUAL_NETWORKS:
        raise SmaltiError(f"No perceptual network is called '{network}': the names are {', '.join(PERCEPTUAL_NETWORKS)}.")
    if network == "efflite0":
        return EffLite0Perceptual()
    try:
        return LPIPSNetwork("vgg" if network == "lpips_vgg" else "alex", weights)
    except WeightsUnavailableError as error:
        if not stand_in:
            raise
        _warn_about_proxy("lpips", EffLite0Perceptual.metric, error)
        return EffLite0Perceptual()


def _warn_about_proxy(metric: str, stand_in: str, error: WeightsUnavailableError) -> None:
    """Log the one warning that another metric takes the place of the published one."""
    log.warning(
        "%s takes the place of %s, and its values are not comparable with published ones. %s", stand_in, metric, error
    )
