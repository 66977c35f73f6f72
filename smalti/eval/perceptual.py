"""Perceptual distances between images: the published LPIPS, and a stand-in for machines without its weights.

Both are called the same way: `network(x, y)` with x, y (B, 3, H, W) in [-1, 1] gives (B,) distances, differentiable in
both.
"""

from __future__ import annotations

import logging
import warnings
from abc import abstractmethod
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.eval.frozen import EffLite0, Frozen, described, own_random_state
from smalti.eval.weights import VARIABLE, WeightsUnavailableError, resolve

NETWORKS = ("lpips_vgg", "lpips_alex", "efflite0")
"""What `perceptual_network` builds."""

log = logging.getLogger(__name__)


class Perceptual(Frozen):
    """A perceptual distance between pairs of images; 0 for equal ones."""

    smallest = 16
    """Height and width, in pixels, that an image must have at least."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of pairs.

        Args:
            x: (B, 3, H, W) in [-1, 1], of any floating type.
            y: the same.

        Returns:
            (B,) float32, each >= 0.

        Raises:
            SmaltiError: images smaller than `smallest`.
        """
        if x.shape != y.shape or x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(
                f"A perceptual distance takes two (B, 3, H, W), not {tuple(x.shape)} and {tuple(y.shape)}."
            )
        if min(x.shape[2:]) < self.smallest:
            raise SmaltiError(
                f"{self.metric} needs images of {self.smallest} x {self.smallest} pixels or more, not "
                f"{x.shape[2]} x {x.shape[3]}: give it larger ones, or leave the metric out."
            )
        return self.distance(x.float(), y.float())

    @abstractmethod
    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """What `forward` does, on inputs that were checked."""


class Lpips(Perceptual):
    """LPIPS 0.1 of the package lpips, without its spatial map (arXiv 1801.03924, eq. 1).

    The linear heads are the package's; the backbone's weights are torchvision's, loaded strictly.

    Args:
        net: "vgg" (training losses, and most tables of tokenizers) or "alex" (the package's default).
        weights: the backbone's file or its folder; None: see `smalti.eval.weights.resolve`.

    Raises:
        WeightsUnavailableError: the backbone's weights cannot be had.
        SmaltiError: the file is not what it should be.
    """

    metric = "lpips"
    comparable = True

    def __init__(self, net: Literal["vgg", "alex"] = "vgg", weights: Path | None = None) -> None:
        super().__init__()
        file = resolve({"vgg": "vgg16", "alex": "alexnet"}[net], weights)
        import lpips

        with own_random_state(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package still calls torchvision by a deprecated name
            self.network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        _load_backbone(self.network.net, file)
        self.smallest = 16 if net == "vgg" else 31  # below, a pooling layer has nothing left to pool
        self.provenance = {"lpips_net": net, **described(file)}
        self.freeze()

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """LPIPS of each pair."""
        return self.network(x, y).flatten()


class EffLite0Perceptual(Perceptual):
    """The stand-in: distance of channel-normalised EfficientNet-Lite0 features, unweighted; not LPIPS.

    With f_s(x) the map (C_s, h_s, w_s) after the last block of stride 2, 4, 8, 16 and 32 (S = 5 maps), and
    u_s(x) = f_s(x) / |f_s(x)| normalised over channels at each position p,

        d(x, y) = 1/S sum_s 1/(h_s w_s) sum_p |u_s(x)_p - u_s(y)_p|^2,   so 0 <= d <= 4.

    It is LPIPS (arXiv 1801.03924, eq. 1) with all weights one, a mean over layers, and another backbone.

    Raises:
        MissingExtraError: the extra "offline" is not installed.
    """

    metric = "perceptual_efflite0"
    comparable = False
    after = (0, 2, 4, 10, 15)

    def __init__(self) -> None:
        super().__init__()
        self.network = EffLite0()
        self.provenance = {"network": "efficientnet-lite0", **described(self.network.file)}
        self.freeze()

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """d(x, y) of the class's docstring."""
        pairs = zip(self.network.maps(x, self.after), self.network.maps(y, self.after), strict=True)
        stages = [(_unit(a) - _unit(b)).square().sum(1).mean((1, 2)) for a, b in pairs]
        return torch.stack(stages).mean(0)


def perceptual_network(network: str = "lpips_vgg", weights: Path | None = None, stand_in: bool = True) -> Perceptual:
    """The network that is asked for, or the stand-in where its weights cannot be had, which one warning says.

    Args:
        network: one of `NETWORKS`.
        weights: file or folder of the backbone's weights; None: see `smalti.eval.weights.resolve`.
        stand_in: take `EffLite0Perceptual` where the weights cannot be had.

    Raises:
        WeightsUnavailableError: the weights cannot be had and `stand_in` is False.
        MissingExtraError: the stand-in is needed and the extra "offline" is not installed.
        SmaltiError: an unknown name, or a file that is not what it should be.
    """
    if network not in NETWORKS:
        raise SmaltiError(f"No perceptual network is called '{network}': the names are {', '.join(NETWORKS)}.")
    if network == "efflite0":
        return EffLite0Perceptual()
    try:
        return Lpips("vgg" if network == "lpips_vgg" else "alex", weights)
    except WeightsUnavailableError as error:
        if not stand_in:
            raise
        warn_of_stand_in("lpips", EffLite0Perceptual.metric, error)
        return EffLite0Perceptual()


def warn_of_stand_in(metric: str, stand_in: str, error: WeightsUnavailableError) -> None:
    """Log the one warning that another metric takes the place of the published one."""
    log.warning(
        "%s takes the place of %s, and its values are not comparable with published ones. %s", stand_in, metric, error
    )


def _load_backbone(slices: torch.nn.Module, file: Path) -> None:
    """Fill lpips' slices (`slice2.5.weight`) from torchvision's file (`features.5.weight`), every key used once."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    features = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    wanted = {key: key.partition(".")[2] for key in slices.state_dict()}
    if set(wanted.values()) != set(features):
        raise SmaltiError(f"{file} does not hold the layers that LPIPS wants: fetch it again, or unset {VARIABLE}.")
    slices.load_state_dict({key: features[name] for key, name in wanted.items()})


def _unit(features: Tensor) -> Tensor:
    """(B, C, h, w) to the same, in float32, of length one over channels."""
    return F.normalize(features.float(), dim=1)
