"""The channels of each resolution level of a WeTok network."""

from __future__ import annotations

from smalti.errors import SmaltiError

_DEFAULT_MULTIPLIERS = [1, 1, 2, 2, 4]


def level_widths(channels: int, multipliers: list[int] | None, blocks: int, groups: int | None) -> list[int]:
    """Return the number of channels of each level, from pixels to latents, and check the arguments of a network.

    Args:
        channels: base number of channels.
        multipliers: factor of each level; None for [1, 1, 2, 2, 4].
        blocks: residual blocks per level.
        groups: groups of the group norms; None: no norms.

    Raises:
        SmaltiError: an argument is below 1, there is no level, or `groups` does not divide `channels`.
    """
    multipliers = _DEFAULT_MULTIPLIERS if multipliers is None else multipliers
    if not multipliers or min(multipliers) < 1 or blocks < 1:
        raise SmaltiError(
            f"multipliers {multipliers} must contain at least one number, and each of them and blocks {blocks} must be at "
            "least 1."
        )
    if groups is not None and (channels < 1 or groups < 1 or channels % groups):
        raise SmaltiError(
            f"channels {channels} must be a positive multiple of groups {groups}: change one, or set groups to null."
        )
    return [channels * multiplier for multiplier in multipliers]
