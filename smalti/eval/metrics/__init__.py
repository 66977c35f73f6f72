"""Metrics of reconstructions, compared with the originals, and of latents. One file per metric."""

from smalti.eval.metrics.base import FrameMetric, Metric, SampleMetric
from smalti.eval.metrics.channel_group import ChannelGroupMetric, channel_metrics
from smalti.eval.metrics.equivariance_error import EquivarianceError
from smalti.eval.metrics.frechet_distance import FrechetDistance
from smalti.eval.metrics.interpolated_frechet import InterpolatedFrechetDistance
from smalti.eval.metrics.latent_base import LatentMetric
from smalti.eval.metrics.latent_channels import LatentChannels
from smalti.eval.metrics.latent_spectrum import LatentSpectrum
from smalti.eval.metrics.perceptual_distance import PerceptualDistance
from smalti.eval.metrics.posterior_collapse import PosteriorCollapse
from smalti.eval.metrics.psnr import PSNR, PSNRClip
from smalti.eval.metrics.registry import available_metrics, default_metrics, find_metric, readiness_metrics
from smalti.eval.metrics.ssim import SSIM

__all__ = [
    "PSNR",
    "SSIM",
    "ChannelGroupMetric",
    "EquivarianceError",
    "FrameMetric",
    "FrechetDistance",
    "InterpolatedFrechetDistance",
    "LatentChannels",
    "LatentMetric",
    "LatentSpectrum",
    "Metric",
    "PSNRClip",
    "PerceptualDistance",
    "PosteriorCollapse",
    "SampleMetric",
    "available_metrics",
    "channel_metrics",
    "default_metrics",
    "find_metric",
    "readiness_metrics",
]
