"""Perceptual distances between images: the published LPIPS, and a stand-in for machines without its weights.

Both are called the same way: `network(x, y)` with x, y (B, 3, H, W) in [-1, 1] gives (B,) distances, differentiable in
both.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.eval.feature_networks.base import file_provenance
from smalti.eval.feature_networks.efflite0 import EffLite0
from smalti.eval.feature_networks.perceptual import PerceptualNetwork


class EffLite0Perceptual(PerceptualNetwork):
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
        self.provenance = {"network": "efficientnet-lite0", **file_provenance(self.network.file)}
        self.freeze()

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """d(x, y) of the class's docstring."""
        pairs = zip(self.network.maps(x, self.after), self.network.maps(y, self.after), strict=True)
        stages = [(_unit(a) - _unit(b)).square().sum(1).mean((1, 2)) for a, b in pairs]
        return torch.stack(stages).mean(0)


def _unit(features: Tensor) -> Tensor:
    """(B, C, h, w) to the same, in float32, of length one over channels."""
    return F.normalize(features.float(), dim=1)
