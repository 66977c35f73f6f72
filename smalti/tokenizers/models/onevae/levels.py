"""The channels of each resolution level of a OneVAE network, and the strides between levels."""

from __future__ import annotations

from smalti.errors import SmaltiError

Strides = list[list[int]]
"""[time, space] strides between neighboring levels, from pixels to latents; each 1 or 2."""

# Architecture of Wan2.1.
_DEFAULT_MULTIPLIERS = [1, 2, 4, 4]
_DEFAULT_STRIDES = [[1, 2], [2, 2], [2, 2]]


def level_widths(
    channels: int, multipliers: list[int] | None, strides: Strides | None, blocks: int, first_frame: bool
) -> tuple[list[int], Strides]:
    """Return the channels of each level and the strides between levels, and check the arguments of a network.

    Args:
        channels: base number of channels.
        multipliers: factor of each level; None for Wan2.1's, [1, 2, 4, 4].
        strides: strides between neighboring levels; None for Wan2.1's, [[1, 2], [2, 2], [2, 2]].
        blocks: residual blocks per level.
        first_frame: whether the first frame has a separate grid, which requires a spatial stride of 2 in the last pair.

    Raises:
        SmaltiError: the arguments do not describe a valid network.
    """
    multipliers = _DEFAULT_MULTIPLIERS if multipliers is None else multipliers
    strides = _DEFAULT_STRIDES if strides is None else strides
    if channels < 1 or blocks < 1 or not multipliers or min(multipliers) < 1:
        raise SmaltiError(
            f"channels {channels}, blocks {blocks} and each of multipliers {multipliers} must be at least 1."
        )
    if len(strides) != len(multipliers) - 1 or any(len(pair) != 2 or not {*pair} <= {1, 2} for pair in strides):
        raise SmaltiError(
            f"strides {strides} must contain a pair [time, space] of numbers 1 or 2 for each of the {len(multipliers) - 1} "
            f"transitions between the {len(multipliers)} levels."
        )
    if first_frame and not (strides and strides[-1][1] == 2):
        raise SmaltiError(
            f"first_frame requires a spatial stride of 2 between the last two levels: set the last of strides {strides} to "
            "[1, 2] or [2, 2]."
        )
    return [channels * multiplier for multiplier in multipliers], strides
