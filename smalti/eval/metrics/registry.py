"""Finding metrics by name. Every module of this package is searched, so adding a file adds its metrics."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from inspect import isabstract
from pathlib import Path

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.frechet import FrechetNetwork
from smalti.eval.feature_networks.selection import frechet_network, perceptual_network
from smalti.eval.feature_networks.st_lpips import STLPIPSNetwork, is_installed
from smalti.eval.metrics.base import Metric
from smalti.eval.metrics.equivariance_error import EquivarianceError
from smalti.eval.metrics.frechet_distance import FrechetDistance
from smalti.eval.metrics.interpolated_frechet import InterpolatedFrechetDistance
from smalti.eval.metrics.latent_channels import LatentChannels
from smalti.eval.metrics.latent_spectrum import LatentSpectrum
from smalti.eval.metrics.perceptual_distance import PerceptualDistance
from smalti.eval.metrics.posterior_collapse import PosteriorCollapse
from smalti.eval.metrics.psnr import PSNR, PSNRClip
from smalti.eval.metrics.ssim import SSIM
from smalti.extensions import import_object

MetricBuilder = Callable[[Path | None], Metric]
"""Builds a metric. Takes the folder of pretrained weights; None: see `smalti.eval.pretrained_weights.resolve`."""


def available_metrics() -> dict[str, MetricBuilder]:
    """Return all metrics of this package by name: the `Metric.variants` of every class."""
    found: dict[str, MetricBuilder] = {}
    for info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        module = import_module(f"{__package__}.{info.name}")
        for value in vars(module).values():
            defined_here = isinstance(value, type) and value.__module__ == module.__name__
            if defined_here and issubclass(value, Metric) and not isabstract(value):
                found |= value.variants()
    return found


def find_metric(name: str) -> MetricBuilder:
    """Return the builder of a metric.

    Args:
        name: one of `available_metrics`, or the class path of a metric in any importable module, such as
            my_package.MyMetric, whose constructor needs no arguments.

    Raises:
        SmaltiError: the name is unknown, the class cannot be imported, or it is not a metric.
    """
    if "." in name:
        cls = _import_metric(name)
        return lambda weights: _build_without_arguments(cls, name)
    builders = available_metrics()
    if name not in builders:
        raise SmaltiError(
            f"The metric '{name}' does not exist: use one of {', '.join(builders)}, or the class path of your own metric, "
            "such as my_package.MyMetric."
        )
    return builders[name]


def default_metrics(*, clips: bool, lpips: str = "lpips_vgg", weights: Path | None = None) -> list[Metric]:
    """Return the metrics of published tables: PSNR, SSIM, LPIPS and rFID; for clips also PSNR per clip, and rFVD.

    Networks whose weights are not available are replaced by proxies, with a warning. Shift-tolerant LPIPS, a published
    perceptual distance that needs no download, is measured too if the extra "st_lpips" is installed.

    Args:
        clips: whether the samples are clips, not images.
        lpips: "lpips_vgg" or "lpips_alex".
        weights: folder of pretrained weights; None: see `smalti.eval.pretrained_weights.resolve`.

    Raises:
        MissingExtraError: a proxy is needed and the extra "offline" is not installed.
        SmaltiError: an unknown network, or a damaged file of weights.
    """
    return [
        PSNR(),
        *([PSNRClip()] if clips else []),
        SSIM(),
        PerceptualDistance(perceptual_network(lpips, weights)),
        *([PerceptualDistance(STLPIPSNetwork())] if is_installed() else []),
        FrechetDistance(frechet_network("i3d" if clips else "inception", weights)),
    ]


def readiness_metrics(network: FrechetNetwork) -> list[Metric]:
    """Return the metrics of latents: how ready they are for a generator, without training one.

    Args:
        network: network of the Fréchet distance, for images or for clips, see
            `smalti.eval.feature_networks.selection.frechet_network`.
    """
    return [
        InterpolatedFrechetDistance(network),
        LatentSpectrum(),
        EquivarianceError(),
        LatentChannels(),
        PosteriorCollapse(),
    ]


def _import_metric(path: str) -> type[Metric]:
    cls = import_object(path, "metric")
    if not (isinstance(cls, type) and issubclass(cls, Metric) and not isabstract(cls)):
        raise SmaltiError(
            f"{path} is not a metric: derive it from smalti.eval.metrics.SampleMetric and implement its abstract methods."
        )
    return cls


def _build_without_arguments(cls: type[Metric], path: str) -> Metric:
    try:
        return cls()
    except TypeError as error:
        raise SmaltiError(
            f"The metric {path} cannot be built without arguments ({error}): give its constructor default values."
        ) from error
