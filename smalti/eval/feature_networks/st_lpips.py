"""Shift-tolerant LPIPS, a published perceptual distance whose weights are installed as a package.

Shapes: B batch; H, W pixels; C channels; h, w positions of a feature map.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import MissingExtraError
from smalti.eval.feature_networks.base import file_provenance, preserve_random_state
from smalti.eval.feature_networks.perceptual import PerceptualNetwork

Trunk = Literal["alex", "vgg"]

_PACKAGE = "stlpips_pytorch"
_EPSILON = 1e-10  # as published


class STLPIPSNetwork(PerceptualNetwork):
    """Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022, arXiv 2207.13686). A published metric of its own: not LPIPS.

    LPIPS changes if one of the images is shifted by a pixel that nobody sees, because its trunk subsamples without a
    low-pass filter. Here, every subsampling is a binomial filter (arXiv 1904.11486) behind reflection padding of 2 pixels,
    AlexNet's first convolution has stride 1 and a filter behind it, and trunk and heads were trained on human judgments
    with these filters. Let f_s(x) be the feature map (C_s, h_s, w_s) of stage s, and u_s(x) = f_s(x) / |f_s(x)|,
    normalized over channels at each position p. With the learned weights w_s >= 0 of the channels,

        d(x, y) = sum_s 1/(h_s w_s) sum_p w_s . (u_s(x)_p - u_s(y)_p)^2.

    The package stlpips-pytorch contains the complete weights. Only this file of it is read. Its code is not imported.

    Args:
        trunk: "alex" (the default of the package, and about four times cheaper) or "vgg".

    Raises:
        MissingExtraError: the extra "st_lpips" is not installed.
    """

    comparable = True
    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Trunk = "alex") -> None:
        super().__init__()
        file = weights_file(trunk)
        self.metric = "st_lpips" if trunk == "alex" else "st_lpips_vgg"
        self.min_size = 21 if trunk == "alex" else 18  # reflection padding needs more than 2 pixels at every stage
        self.definition = f"shift-tolerant LPIPS ST0.0 with {'AlexNet' if trunk == 'alex' else 'VGG16'} (not LPIPS)"
        self.provenance = {"network": f"st_lpips, {trunk}", **file_provenance(file)}
        with preserve_random_state():
            self.stages = nn.ModuleList(_alexnet_stages() if trunk == "alex" else _vgg16_stages())
        weights = torch.load(file, map_location="cpu", weights_only=True)
        self.register_buffer("shift", weights["scaling_layer.shift"])
        self.register_buffer("scale", weights["scaling_layer.scale"])
        self.heads = nn.ParameterList(weights[f"lin{index}.model.1.weight"] for index in range(len(self.stages)))
        _load_convolutions(self.stages, {k.removeprefix("net."): v for k, v in weights.items() if k.startswith("net.")})
        self.freeze()

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Return d(x, y) as the class docstring defines it, (B,)."""
        maps = torch.cat([x, y]).sub(self.shift).div(self.scale)
        total = x.new_zeros(len(x))
        for stage, head in zip(self.stages, self.heads, strict=True):
            maps = stage(maps)
            a, b = _normalize(maps).chunk(2)
            total = total + ((a - b).square() * head).sum(1).mean((1, 2))
        return total


def is_installed() -> bool:
    """Return whether the extra "st_lpips" is installed."""
    return find_spec(_PACKAGE) is not None


def weights_file(trunk: Trunk) -> Path:
    """Return the file of weights in the package, without importing the package.

    Raises:
        MissingExtraError: the package is not installed.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("stlpips-pytorch", "st_lpips", "The networks st_lpips and st_lpips_vgg")
    return Path(spec.submodule_search_locations[0]) / "weights" / "vST0.0" / f"{trunk}_shift_tolerant.pth"


class _Blur(nn.Module):
    """Subsampling by 2 behind the binomial filter [1 2 1] / 4 in both directions, with reflection padding of 2 pixels."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        channels = h.shape[1]
        padded = F.pad(h, (2, 2, 2, 2), mode="reflect")
        return F.conv2d(padded, self.kernel.expand(channels, 1, 3, 3), stride=2, groups=channels)


def _alexnet_stages() -> list[nn.Sequential]:
    """Return the five stages of the shift-tolerant AlexNet."""
    return [
        nn.Sequential(nn.Conv2d(3, 64, 11, padding=2), _Blur(), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 1), _Blur(), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 1), _Blur(), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]


def _vgg16_stages() -> list[nn.Sequential]:
    """Return the five stages of the shift-tolerant VGG16 (arXiv 1409.1556)."""
    stages, in_channels = [], 3
    for channels, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers: list[nn.Module] = [nn.MaxPool2d(2, 1), _Blur()] if stages else []
        for _ in range(convolutions):
            layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU()]
            in_channels = channels
        stages.append(nn.Sequential(*layers))
    return stages


def _load_convolutions(stages: nn.ModuleList, weights: dict[str, Tensor]) -> None:
    """Load the weights of the trunk, such as "slice2.5.bias". Their names contain the stage and the index of the layer."""
    ours = [layer for layer in stages.modules() if isinstance(layer, nn.Conv2d)]
    names = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    for layer, name in zip(ours, names, strict=True):
        layer.load_state_dict({key: weights[f"{name}.{key}"] for key in ("weight", "bias")})


def _normalize(features: Tensor) -> Tensor:
    """Normalize (B, C, h, w) over channels, in float32. The gradient is finite where all features are zero."""
    features = features.float()
    return features / (features.square().sum(1, keepdim=True).clamp_min(_EPSILON**2).sqrt() + _EPSILON)
