"""Perceptual distances between images: the published LPIPS, and a stand-in for machines without its weights.

Both are called the same way: `network(x, y)` with x, y (B, 3, H, W) in [-1, 1] gives (B,) distances, differentiable in
both.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.base import file_provenance, preserve_random_state
from smalti.eval.feature_networks.perceptual import PerceptualNetwork
from smalti.eval.pretrained_weights import VARIABLE, resolve


class LPIPSNetwork(PerceptualNetwork):
    """LPIPS 0.1 of the package lpips, without its spatial map (arXiv 1801.03924, eq. 1).

    The linear heads are the package's; the backbone's weights are torchvision's, loaded strictly.

    Args:
        net: "vgg" (training losses, and most tables of tokenizers) or "alex" (the package's default).
        weights: the backbone's file or its folder; None: see `smalti.eval.pretrained_weights.resolve`.

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

        with preserve_random_state(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package still calls torchvision by a deprecated name
            self.network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        _load_backbone(self.network.net, file)
        self.smallest = 16 if net == "vgg" else 31  # below, a pooling layer has nothing left to pool
        self.provenance = {"lpips_net": net, **file_provenance(file)}
        self.freeze()

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """LPIPS of each pair."""
        return self.network(x, y).flatten()


def _load_backbone(slices: torch.nn.Module, file: Path) -> None:
    """Fill lpips' slices (`slice2.5.weight`) from torchvision's file (`features.5.weight`), every key used once."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    features = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    wanted = {key: key.partition(".")[2] for key in slices.state_dict()}
    if set(wanted.values()) != set(features):
        raise SmaltiError(f"{file} does not hold the layers that LPIPS wants: fetch it again, or unset {VARIABLE}.")
    slices.load_state_dict({key: features[name] for key, name in wanted.items()})
