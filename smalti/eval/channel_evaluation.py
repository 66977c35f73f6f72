"""Evaluation of tokenizers for other channels than red, green and blue: PSNR and SSIM of each group of channels.

Values have more than 8 bits and are not rounded. Metrics that know colors measure the group rgb, rounded to 8 bits.

Shapes: B batch; C channels; T frames, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.channel_groups import ChannelGroups, describe_groups, group_slices
from smalti.errors import SmaltiError
from smalti.eval.functional import PSNR_CEILING, full_precision, unbind_frames
from smalti.eval.metrics.base import Metric, SampleMetric
from smalti.eval.reconstruct import decode_latents
from smalti.pixels import pixels_to_uint8
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch

_PEAK = 2.0
"""Range of the values, from -1 to 1."""


@dataclass(frozen=True)
class ChannelEvaluation:
    """The results of `evaluate_channels`.

    Attributes:
        channels: the groups of channels.
        means: mean over the samples by name: psnr, psnr_GROUP in dB, ssim_GROUP, and further metrics.
        samples: the same values of each sample.
    """

    channels: ChannelGroups
    means: dict[str, float]
    samples: dict[str, dict[str, float]]


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the PSNR of each pair of images in dB over all channels, for values in [-1, 1], which are clamped.

    Args:
        x: (B, C, H, W) floating point.
        y: like `x`.

    Returns:
        (B,) float64, at most `PSNR_CEILING`.
    """
    error = x.double().clamp(-1, 1) - y.double().clamp(-1, 1)
    return (10 * (_PEAK**2 / error.square().flatten(1).mean(1)).log10()).clamp(max=PSNR_CEILING)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the structural similarity of each pair of images, for values in [-1, 1], which are clamped.

    The settings are those of `smalti.eval.functional.ssim`: each channel separately, then averaged.

    Args:
        x: (B, C, H, W) floating point, H and W at least 6.
        y: like `x`.

    Returns:
        (B,) float64, at most 1.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = ((z.float().clamp(-1, 1) + 1) / 2 for z in (x, y))  # the term of the luminance takes values from 0 on
    with full_precision(x.device):
        values = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
    return torch.as_tensor(values).reshape(-1).double()


def measure_groups(
    measure: Callable[[Tensor, Tensor], Tensor], name: str, original: Tensor, other: Tensor, groups: ChannelGroups
) -> dict[str, Tensor]:
    """Measure each group of channels, for clips the mean over their frames.

    Args:
        measure: a metric of two (B, C, H, W) that returns (B,).
        name: name of the metric.
        original: (B, C, H, W) or (B, C, T, H, W).
        other: like `original`.
        groups: the groups of channels.

    Returns:
        (B,) values by the names NAME_GROUP.
    """
    values: dict[str, Tensor] = {}
    for group, channels in group_slices(groups).items():
        pairs = zip(unbind_frames(original[:, channels]), unbind_frames(other[:, channels]), strict=True)
        values[f"{name}_{group}"] = torch.stack([measure(a, b) for a, b in pairs], dim=1).mean(1)
    return values


def check_color_metrics(metrics: Sequence[Metric], groups: ChannelGroups) -> list[SampleMetric]:
    """Return metrics that can measure the group rgb.

    Raises:
        SmaltiError: there is no such group, or a metric has no value per sample.
    """
    found: list[SampleMetric] = []
    for metric in metrics:
        if "rgb" not in groups:
            raise SmaltiError(
                f"{metric.name} measures red, green and blue, but the channels are {describe_groups(groups)}: leave it out."
            )
        if not isinstance(metric, SampleMetric):
            raise SmaltiError(
                f"{metric.name} has no value per sample and cannot measure the group rgb alone: leave it out."
            )
        found.append(metric)
    return found


@torch.no_grad()
def evaluate_channels(
    tokenizer: Tokenizer,
    batches: Iterable[Batch],
    metrics: Sequence[SampleMetric] = (),
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> ChannelEvaluation:
    """Reconstruct a dataset and measure each group of channels.

    Args:
        tokenizer: is moved to `device` and set to evaluation mode.
        batches: pixels (B, C, H, W) in [-1, 1], and unique names.
        metrics: further metrics, for the group rgb; see `check_color_metrics`.
        seed: seed for the noise of a generative decoder.
        device: where everything runs.

    Raises:
        SmaltiError: there are no samples, or the pixels do not have the channels of the tokenizer.
    """
    tokenizer = tokenizer.to(device).eval()
    groups = tokenizer.channels
    for metric in metrics:
        metric.to(device)
    samples: dict[str, dict[str, float]] = {}
    weight = next(tokenizer.parameters())
    for batch in batches:
        original = batch.pixels.to(device)
        latents = tokenizer.encode(original.to(weight.dtype))
        reconstruction = decode_latents(tokenizer, latents, batch.names, seed=seed).float()
        everything = {"all": sum(groups.values())}
        values = {"psnr": measure_groups(psnr, "psnr", original, reconstruction, everything)["psnr_all"]}
        values |= measure_groups(psnr, "psnr", original, reconstruction, groups)
        values |= measure_groups(ssim, "ssim", original, reconstruction, groups)
        if metrics:
            colors = group_slices(groups)["rgb"]
            pair = (pixels_to_uint8(original[:, colors]), pixels_to_uint8(reconstruction[:, colors]))
            values |= {metric.name: metric.measure(*pair) for metric in metrics}
        for index, name in enumerate(batch.names):
            samples[name] = {key: float(value[index]) for key, value in values.items()}
    if not samples:
        raise SmaltiError("The dataset contains no samples: check its path and its filters.")
    names = next(iter(samples.values()))
    means = {name: math.fsum(values[name] for values in samples.values()) / len(samples) for name in names}
    return ChannelEvaluation(dict(groups), means, samples)
