"""What an evaluation measures and shows of pixels with any channels.

Photos are rounded to 8 bits. Pixels with other channels than red, green and blue have more than 8 bits and are not rounded;
metrics of colors see the group rgb of them, rounded to 8 bits.

Shapes: B batch; C channels; G groups; T frames, H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.channel_groups import RGB, ChannelGroups, colors, describe_groups, group_slices
from smalti.pixels import pixels_to_uint8


def measured_values(pixels: Tensor, groups: ChannelGroups) -> Tensor:
    """Return what is measured of pixels (B, C, ...) in [-1, 1]: uint8 for photos, otherwise float32, clamped."""
    return pixels_to_uint8(pixels) if groups == RGB else pixels.float().clamp(-1, 1)


def metric_view(samples: Tensor, groups: ChannelGroups, *, all_channels: bool) -> Tensor:
    """Return what a metric sees of samples (B, C, ...) that `measured_values` returned.

    Args:
        samples: the samples.
        groups: groups of their channels.
        all_channels: whether the metric takes all channels; otherwise the group rgb, (B, 3, ...) uint8.
    """
    return samples if all_channels or groups == RGB else pixels_to_uint8(colors(samples, groups))


def explain_missing_colors(name: str, groups: ChannelGroups) -> str:
    """Return that something needs colors, which the groups do not have. Without a period."""
    return f"{name} needs red, green and blue, but the channels are {describe_groups(groups)}"


def panel_titles(samples: Tensor, groups: ChannelGroups) -> tuple[str, ...]:
    """Return the titles of the panels of images with several groups of channels; () for clips and for a single group."""
    return tuple(groups) if samples.ndim == 4 and len(groups) > 1 else ()


def pictures(samples: Tensor, groups: ChannelGroups) -> Tensor:
    """Return samples (B, C, ...) as colors to look at.

    A group of three channels is shown as red, green and blue, of another one its first channel in gray. Clips show the
    group rgb, or else the first group.

    Args:
        samples: uint8, or floating point in [-1, 1].
        groups: groups of their channels.

    Returns:
        uint8: (B, 3, H, W) or (B, 3, T, H, W); for images of several groups (B, 3, G, H, W), one panel per group.
    """
    samples = samples if samples.dtype == torch.uint8 else pixels_to_uint8(samples)
    shown = {name: _gray_or_colors(samples[:, part]) for name, part in group_slices(groups).items()}
    if panel_titles(samples, groups):
        return torch.stack(list(shown.values()), dim=2)
    return shown.get("rgb", next(iter(shown.values())))


def _gray_or_colors(channels: Tensor) -> Tensor:
    return channels if channels.shape[1] == 3 else channels[:, :1].expand(-1, 3, *[-1] * (channels.ndim - 2))
