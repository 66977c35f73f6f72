"""Structural similarity."""

from __future__ import annotations

from torch import Tensor

from smalti.eval import functional
from smalti.eval.metrics.base import FrameMetric


class SSIM(FrameMetric):
    """Structural similarity (Wang et al. 2004). See `smalti.eval.functional.ssim` for the settings."""

    name = "ssim"
    higher_is_better = True
    range = (-1.0, 1.0)
    definition = f"{FrameMetric.reduction}; Gaussian window 11 x 11, sigma 1.5, each channel separately"

    def measure_images(self, original: Tensor, candidate: Tensor) -> Tensor:
        """Return (B,) float32."""
        return functional.ssim(original, candidate)
