"""Which levels of Cosmos' networks change the resolution. Level 0 is that of the patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smalti.errors import SmaltiError
from smalti.tokenizers.models.cosmos.layers import IMAGE_GROUPS
from smalti.tokenizers.models.levels import count_halvings


@dataclass(frozen=True)
class Shape:
    """The sizes of both networks of a tokenizer.

    Attributes:
        widths: channels of each level, from patches to latents.
        video: whether the networks take clips.
        down: (space, time) for each level of the encoder: whether it ends with downsampling.
        up: (space, time) for each level of the decoder, by the same index: whether it ends with upsampling.
    """

    widths: tuple[int, ...]
    video: bool
    down: tuple[tuple[bool, bool], ...]
    up: tuple[tuple[bool, bool], ...]


def network_shape(channels: int, multipliers: Sequence[int], blocks: int, patch: int, stride: Sequence[int]) -> Shape:
    """Return the sizes of the networks.

    The encoder downsamples in its first levels. The decoder of clips upsamples in space alone first, so that the levels do
    not mirror those of the encoder; networks for images mirror each other.

    Args:
        channels: base number of channels.
        multipliers: channel multiplier of each level.
        blocks: residual blocks per level.
        patch: frames, height and width of a patch.
        stride: pixels per latent position along (T, H, W). T = 1: networks for images.

    Raises:
        SmaltiError: the arguments do not describe a valid network.
    """
    time, height, width = stride
    if height != width:
        raise SmaltiError(f"stride is {list(stride)}: give [frames, height, width] with equal height and width.")
    if channels < 1 or blocks < 1 or not multipliers or min(multipliers) < 1:
        raise SmaltiError(
            f"channels is {channels}, blocks {blocks} and multipliers {list(multipliers)}: give positive numbers, and at "
            "least one multiplier."
        )
    video, levels = time > 1, len(multipliers)
    halvings = count_halvings(patch, "patch")
    space = count_halvings(height) - halvings
    frames = count_halvings(time) - halvings if video else 0
    most = levels - 1 if video else levels
    if min(space, frames) < 0 or max(space, frames) > most or frames > space:
        raise SmaltiError(
            f"patch {patch} and {levels} levels do not give the stride {list(stride)}: height and width must be from patch "
            f"to patch x {2**most}, and the frames from patch to the height."
        )
    widths = tuple(channels * multiplier for multiplier in multipliers)
    if not video and any(w % IMAGE_GROUPS for w in (channels, *widths)):
        raise SmaltiError(
            f"channels is {channels}, but the norms of networks for images have {IMAGE_GROUPS} groups: give a multiple."
        )
    down = tuple((level < space, level < frames) for level in range(levels))
    if not video:
        return Shape(widths, video, down, tuple((level >= levels - space, False) for level in range(levels)))
    ups: list[tuple[bool, bool]] = []
    for step in reversed(range(levels)):  # `step` counts from the latents
        in_time = step < levels - 1 and 0 < step < frames + 1
        in_space = step < levels - 1 and (in_time or (step < space and space > frames))
        ups.append((in_space, in_time))
    shape = Shape(widths, video, down, tuple(ups))
    if (sum(s for s, _ in ups), sum(t for _, t in ups)) != (space, frames):
        raise SmaltiError(
            f"Cosmos' decoder cannot upsample by the stride {list(stride)} with patch {patch} and {levels} levels, because "
            "its first level never upsamples in time: choose fewer frames, or more levels."
        )
    return shape
