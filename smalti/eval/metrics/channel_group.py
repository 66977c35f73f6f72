"""Metrics of groups of channels, such as psnr_nir."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from smalti.channel_groups import ChannelGroups, describe_groups, group_slices
from smalti.eval.metrics.base import FrameMetric, Metric, SampleMetric
from smalti.eval.metrics.psnr import PSNR
from smalti.eval.metrics.ssim import SSIM


class ChannelGroupMetric(SampleMetric):
    """A metric of images, of some channels, which are not rounded.

    Args:
        metric: the metric, which takes any number of channels.
        groups: groups of channels of the samples.
        group: name of the group to measure; None for all channels, under the name of the metric.
    """

    all_channels = True
    comparable = False

    def __init__(self, metric: FrameMetric, groups: ChannelGroups, group: str | None = None) -> None:
        super().__init__()
        self.metric = metric
        self.channels = slice(None) if group is None else group_slices(groups)[group]
        self.name = metric.name if group is None else f"{metric.name}_{group}"
        self.higher_is_better, self.range, self.unit = metric.higher_is_better, metric.range, metric.unit
        part = f"all channels ({describe_groups(groups)})" if group is None else f"the channels {group}"
        self.definition = f"{metric.definition}; of {part}, values in [-1, 1] that are clamped and not rounded"

    @classmethod
    def variants(cls) -> dict[str, Callable[[Path | None], Metric]]:
        """Return nothing: the groups of the data decide which of these are measured, see `channel_metrics`."""
        return {}

    def measure(self, original: Tensor, candidate: Tensor) -> Tensor:
        """Return (B,) float64. Samples are (B, C, ...), floating point."""
        return self.metric.measure(original[:, self.channels], candidate[:, self.channels])


def channel_metrics(groups: ChannelGroups) -> list[Metric]:
    """Return PSNR of all channels, and PSNR and SSIM of each group."""
    metrics: list[Metric] = [ChannelGroupMetric(PSNR(), groups)]
    return metrics + [ChannelGroupMetric(kind(), groups, group) for kind in (PSNR, SSIM) for group in groups]
