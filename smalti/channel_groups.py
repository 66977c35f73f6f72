"""Named groups of channels of images, such as {"rgb": 3, "nir": 1}, in the order of the channels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from smalti.errors import SmaltiError

ChannelGroups = dict[str, int]
"""Number of channels of each group, in the order of the channels."""

RGB: ChannelGroups = {"rgb": 3}
"""The channels of photos and videos."""


def check_groups(groups: Any, where: str) -> ChannelGroups:
    """Return channel groups that are valid.

    Args:
        groups: the groups to check.
        where: what contains them, as the start of a sentence: "channels in my/bands/channels.yaml".

    Raises:
        SmaltiError: they are no dictionary of names and positive numbers, or the group "rgb" has not 3 channels.
    """
    valid = isinstance(groups, Mapping) and bool(groups)
    if not valid or any(
        not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)) or type(count) is not int or count < 1
        for name, count in groups.items()
    ):
        raise SmaltiError(
            f"{where} is {groups!r}: give the number of channels of each group by name, in lower case, such as "
            "{rgb: 3, nir: 1}."
        )
    if groups.get("rgb", 3) != 3:
        raise SmaltiError(
            f"{where} has a group rgb of {groups['rgb']} channels, but red, green and blue are 3: rename the group."
        )
    return dict(groups)


def group_slices(groups: Mapping[str, int]) -> dict[str, slice]:
    """Return the channels of each group.

    >>> group_slices({"rgb": 3, "nir": 1})
    {'rgb': slice(0, 3, None), 'nir': slice(3, 4, None)}
    """
    slices: dict[str, slice] = {}
    start = 0
    for name, count in groups.items():
        slices[name] = slice(start, start + count)
        start += count
    return slices


def describe_groups(groups: Mapping[str, int]) -> str:
    """Return groups as text, such as "rgb 3, nir 1"."""
    return ", ".join(f"{name} {count}" for name, count in groups.items())


def colors(pixels: Tensor, groups: Mapping[str, int]) -> Tensor:
    """Return red, green and blue (B, 3, ...) of pixels (B, C, ...). The groups contain rgb."""
    return pixels if groups == RGB else pixels[:, group_slices(groups)["rgb"]]
