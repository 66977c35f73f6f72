"""LPIPS, the published perceptual distance."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.base import file_provenance, preserve_random_state
from smalti.eval.feature_networks.perceptual import PerceptualNetwork
from smalti.eval.pretrained_weights import WEIGHTS_VARIABLE, resolve


class LPIPSNetwork(PerceptualNetwork):
    """LPIPS 0.1 (arXiv 1801.03924, eq. 1) of the package lpips, averaged over positions.

    The linear heads come with the package. The weights of the backbone are torchvision's, and every layer must match.

    Args:
        net: "vgg" (for training losses and most tables of tokenizers) or "alex" (the package's default).
        weights: file of the backbone's weights, or its folder; None: see `smalti.eval.pretrained_weights.resolve`.

    Raises:
        WeightsUnavailableError: the backbone's weights are not available.
        SmaltiError: the file is damaged.
    """

    metric = "lpips"
    comparable = True

    def __init__(self, net: Literal["vgg", "alex"] = "vgg", weights: Path | None = None) -> None:
        super().__init__()
        file = resolve({"vgg": "vgg16", "alex": "alexnet"}[net], weights)
        import lpips

        with preserve_random_state(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package uses a deprecated argument of torchvision
            self.network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        _load_backbone(self.network.net, file)
        self.min_size = 16 if net == "vgg" else 31  # the last pooling layer of a smaller image would have no input
        self.definition = f"LPIPS 0.1 with {'VGG16' if net == 'vgg' else 'AlexNet'}"
        self.provenance = {"lpips_net": net, **file_provenance(file)}
        self.freeze()

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the LPIPS distance of each pair, (B,)."""
        return self.network(x, y).flatten()


def _load_backbone(slices: torch.nn.Module, file: Path) -> None:
    """Load the layers of torchvision's file (`features.5.weight`) into the slices of lpips (`slice2.5.weight`)."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    features = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    names = {key: key.partition(".")[2] for key in slices.state_dict()}
    if set(names.values()) != set(features):
        raise SmaltiError(
            f"{file} does not contain the layers that LPIPS needs: download it again, or unset {WEIGHTS_VARIABLE}."
        )
    slices.load_state_dict({key: features[name] for key, name in names.items()})
