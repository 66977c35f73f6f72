"""The channels of each resolution level of a OneVAE network, and the strides between levels."""

from __future__ import annotations

from smalti.errors import SmaltiError

Strides = list[list[int]]
"""[time, space] of each change of resolution, from pixels to latents; each 1 or 2."""

# Wan2.1's
_DEFAULT_MULTIPLIERS = [1, 2, 4, 4]
_DEFAULT_STRIDES = [[1, 2], [2, 2], [2, 2]]


def level_widths(
    channels: int, multipliers: list[int] | None, strides: Strides | None, blocks: int, first_frame: bool
) -> tuple[list[int], Strides]:
    """Return the channels of each level and the strides between levels, and check the arguments of a network.

    Args:
        channels: base number of channels.
        multipliers: factor of each level; None for Wan2.1's, [1, 2, 4, 4].
        strides: strides between each two levels; None for Wan2.1's, [[1, 2], [2, 2], [2, 2]].
        blocks: residual blocks per level.
        first_frame: whether the first frame has its own grid, which requires that the last stride halves space.

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
            f"strides {strides} must contain a pair [time, space] of ones and twos between each two of the "
            f"{len(multipliers)} multipliers."
        )
    if first_frame and not (strides and strides[-1][1] == 2):
        raise SmaltiError(
            f"first_frame requires that the last of the strides {strides} halves space: set it to [.., 2]."
        )
    return [channels * multiplier for multiplier in multipliers], strides
