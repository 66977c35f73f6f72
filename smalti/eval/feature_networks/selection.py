"""Selection of a feature network by name, with a proxy if the weights of the published network are not available."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.efflite0_frechet import EffLite0MotionNetwork, EffLite0Network
from smalti.eval.feature_networks.efflite0_perceptual import EffLite0Perceptual
from smalti.eval.feature_networks.frechet import FrechetNetwork
from smalti.eval.feature_networks.i3d import I3DNetwork
from smalti.eval.feature_networks.inception import InceptionNetwork
from smalti.eval.feature_networks.lpips import LPIPSNetwork
from smalti.eval.feature_networks.perceptual import PerceptualNetwork
from smalti.eval.feature_networks.st_lpips import STLPIPSNetwork, Trunk, weights_file
from smalti.eval.pretrained_weights import WeightsUnavailableError, resolve

log = logging.getLogger(__name__)

_PUBLISHED: dict[str, tuple[type[InceptionNetwork | I3DNetwork], type[EffLite0Network]]] = {
    "inception": (InceptionNetwork, EffLite0Network),
    "i3d": (I3DNetwork, EffLite0MotionNetwork),
}
"""Networks that need weights, and their proxies."""

_PROXIES: dict[str, type[EffLite0Network]] = {"efflite0": EffLite0Network, "efflite0_motion": EffLite0MotionNetwork}

FRECHET_NETWORKS: Mapping[str, type[FrechetNetwork]] = {name: cls for name, (cls, _) in _PUBLISHED.items()} | _PROXIES
"""The choices of `frechet_network`. inception and efflite0 take images; i3d and efflite0_motion take clips."""

PerceptualNetworkName = Literal["lpips_vgg", "lpips_alex", "st_lpips", "st_lpips_vgg", "efflite0"]
PERCEPTUAL_NETWORKS: tuple[PerceptualNetworkName, ...] = get_args(PerceptualNetworkName)
"""The choices of `perceptual_network`. Installed packages contain the weights of all except LPIPS."""

_LPIPS: dict[str, tuple[Literal["vgg", "alex"], str]] = {
    "lpips_vgg": ("vgg", "vgg16"),
    "lpips_alex": ("alex", "alexnet"),
}
_ST_LPIPS: dict[str, Trunk] = {"st_lpips": "alex", "st_lpips_vgg": "vgg"}


def frechet_network(
    network: str = "inception", weights: Path | None = None, allow_proxy: bool = True
) -> FrechetNetwork:
    """Return a network for Fréchet distances, or its proxy, with a warning, if its weights are not available.

    Args:
        network: one of `FRECHET_NETWORKS`.
        weights: file or folder of the published network's weights; None: see `smalti.eval.pretrained_weights.resolve`.
        allow_proxy: whether to return the proxy if the weights are not available.

    Raises:
        WeightsUnavailableError: the weights are not available and `allow_proxy` is False.
        MissingExtraError: the proxy is needed and the extra "offline" is not installed.
        SmaltiError: an unknown name, or a damaged file.
    """
    if network in _PROXIES:
        return _PROXIES[network]()
    if network not in _PUBLISHED:
        raise SmaltiError(f"The feature network '{network}' does not exist: use one of {', '.join(FRECHET_NETWORKS)}.")
    published, proxy = _PUBLISHED[network]
    try:
        return published(weights)
    except WeightsUnavailableError as error:
        if not allow_proxy:
            raise
        _warn_about_proxy(published.metric, proxy.metric, error)
        return proxy()


def perceptual_network(
    network: str = "lpips_vgg", weights: Path | None = None, allow_proxy: bool = True
) -> PerceptualNetwork:
    """Return a network for perceptual distances; for LPIPS, the proxy, with a warning, if its weights are not available.

    Args:
        network: one of `PERCEPTUAL_NETWORKS`.
        weights: for LPIPS, file or folder of the backbone's weights; None: see `smalti.eval.pretrained_weights.resolve`.
        allow_proxy: whether to return `EffLite0Perceptual` if the weights of LPIPS are not available.

    Raises:
        WeightsUnavailableError: the weights are not available and `allow_proxy` is False.
        MissingExtraError: the extra "st_lpips", or "offline" for the proxy, is needed and not installed.
        SmaltiError: an unknown name, or a damaged file.
    """
    _check_perceptual_name(network)
    if network in _ST_LPIPS:
        return STLPIPSNetwork(_ST_LPIPS[network])
    if network == "efflite0":
        return EffLite0Perceptual()
    try:
        return LPIPSNetwork(_LPIPS[network][0], weights)
    except WeightsUnavailableError as error:
        if not allow_proxy:
            raise
        _warn_about_proxy(LPIPSNetwork.metric, EffLite0Perceptual.metric, error)
        return EffLite0Perceptual()


def check_perceptual_network(network: str, weights: Path | None = None) -> None:
    """Check that the weights of a perceptual network are available, and download them if necessary.

    Much faster than `perceptual_network`, which builds the network. The weights of efflite0 are not checked.

    Args:
        network: one of `PERCEPTUAL_NETWORKS`.
        weights: see `perceptual_network`.

    Raises:
        SmaltiError: see `perceptual_network` with `allow_proxy` False.
    """
    _check_perceptual_name(network)
    if network in _ST_LPIPS:
        weights_file(_ST_LPIPS[network])
    elif network in _LPIPS:
        resolve(_LPIPS[network][1], weights)


def _check_perceptual_name(network: str) -> None:
    if network not in PERCEPTUAL_NETWORKS:
        raise SmaltiError(
            f"The perceptual network '{network}' does not exist: use one of {', '.join(PERCEPTUAL_NETWORKS)}."
        )


def _warn_about_proxy(metric: str, proxy: str, error: WeightsUnavailableError) -> None:
    log.warning(
        "Measuring %s instead of %s. It is a proxy and not comparable with published values. %s", proxy, metric, error
    )
