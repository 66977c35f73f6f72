"""The proxy for LPIPS, on EfficientNet-Lite0."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.eval.feature_networks.base import file_provenance
from smalti.eval.feature_networks.efflite0 import EffLite0
from smalti.eval.feature_networks.perceptual import PerceptualNetwork


class EffLite0Perceptual(PerceptualNetwork):
    """Unweighted distance between channel-normalized features of EfficientNet-Lite0. A proxy: it is not LPIPS.

    Let f_s(x) be the feature map (C_s, h_s, w_s) after the last block of stride 2, 4, 8, 16 and 32 (S = 5 maps), and
    u_s(x) = f_s(x) / |f_s(x)|, normalized over channels at each position p. Then

        d(x, y) = 1/S sum_s 1/(h_s w_s) sum_p |u_s(x)_p - u_s(y)_p|^2,   0 <= d <= 4.

    This is LPIPS (arXiv 1801.03924, eq. 1) with all weights equal to one, a mean over layers, and another backbone.

    Raises:
        MissingExtraError: the extra "offline" is not installed.
    """

    metric = "perceptual_efflite0"
    comparable = False
    definition = "distance between channel-normalized EfficientNet-Lite0 features (not LPIPS)"
    range = (0.0, 4.0)
    after = (0, 2, 4, 10, 15)

    def __init__(self) -> None:
        super().__init__()
        self.network = EffLite0()
        self.provenance = {"network": "efficientnet-lite0", **file_provenance(self.network.file)}
        self.freeze()

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Return d(x, y) as the class docstring defines it, (B,)."""
        pairs = zip(self.network.feature_maps(x, self.after), self.network.feature_maps(y, self.after), strict=True)
        distances = [(_normalize(a) - _normalize(b)).square().sum(1).mean((1, 2)) for a, b in pairs]
        return torch.stack(distances).mean(0)


def _normalize(features: Tensor) -> Tensor:
    """Normalize (B, C, h, w) over channels, in float32."""
    return F.normalize(features.float(), dim=1)
