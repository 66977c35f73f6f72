"""Metrics that compare originals with reconstructions, one file per metric."""

from smalti.eval.metrics.base import FrameMetric, Metric, SampleMetric
from smalti.eval.metrics.frechet_distance import FrechetDistance
from smalti.eval.metrics.perceptual_distance import PerceptualDistance
from smalti.eval.metrics.psnr import PSNR, PSNRClip
from smalti.eval.metrics.registry import available_metrics, default_metrics, find_metric
from smalti.eval.metrics.ssim import SSIM

__all__ = [
    "PSNR",
    "SSIM",
    "FrameMetric",
    "FrechetDistance",
    "Metric",
    "PSNRClip",
    "PerceptualDistance",
    "SampleMetric",
    "available_metrics",
    "default_metrics",
    "find_metric",
]
