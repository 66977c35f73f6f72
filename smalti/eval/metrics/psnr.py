"""Peak signal-to-noise ratio, per frame and per clip."""

from __future__ import annotations

from torch import Tensor

from smalti.eval import functional
from smalti.eval.functional import PSNR_CEILING
from smalti.eval.metrics.base import FrameMetric, SampleMetric


class PSNR(FrameMetric):
    """PSNR per frame in dB, averaged over the frames of a clip as VidTok does (arXiv 2412.13061).

    It is never below `PSNRClip`.
    """

    name = "psnr"
    higher_is_better = True
    range = (0.0, PSNR_CEILING)
    unit = "dB"
    definition = f"dB {FrameMetric.reduction}; at most {PSNR_CEILING:g} per frame, the value of identical frames"

    def measure_images(self, original: Tensor, candidate: Tensor) -> Tensor:
        """Return (B,) float64. See `smalti.eval.functional.psnr`."""
        return functional.psnr(original, candidate)


class PSNRClip(SampleMetric):
    """PSNR of the squared error over all frames of a clip in dB, as TokenBench computes it (arXiv 2501.03575)."""

    name = "psnr_clip"
    higher_is_better = True
    range = (0.0, PSNR_CEILING)
    unit = "dB"
    media = ("clips",)
    definition = "dB of the mean squared error over all frames of a clip, averaged over clips"

    def measure(self, original: Tensor, candidate: Tensor) -> Tensor:
        """Return (B,) float64. See `smalti.eval.functional.psnr_clip`."""
        return functional.psnr_clip(original, candidate)
