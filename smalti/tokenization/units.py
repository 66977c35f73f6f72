"""Units of work: one part of a source that becomes one shard of the result.

A shard of the source is a unit. The files of a folder are cut into units of equal numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from smalti.data import IndexedSource, Shards, Source
from smalti.data.shard_patterns import is_url
from smalti.errors import SmaltiError

MANIFEST = "token_dataset.json"
"""Name of the file that describes a token dataset: what every shard carries, and the names of all shards."""

RESERVED_NAMES = ("token_dataset", "visual_vocab")
"""Names of other files in the folder, which a shard must not have."""


@dataclass(frozen=True)
class Unit:
    """A part of a source.

    Attributes:
        name: name of the shard that it becomes.
        index: index of the shard in a source of shards; of the unit, in other sources.
        first: index of its first item in an `IndexedSource`.
        stop: index after its last item; None for a shard of the source.
    """

    name: str
    index: int
    first: int = 0
    stop: int | None = None


def plan_units(source: Source, samples_per_shard: int) -> list[Unit]:
    """Cut a source into units.

    Args:
        source: images or videos.
        samples_per_shard: items per unit of a source that does not consist of shards.

    Raises:
        SmaltiError: `samples_per_shard` is less than 1, or the source is empty.
    """
    if samples_per_shard < 1:
        raise SmaltiError(f"samples_per_shard is {samples_per_shard}: give at least 1.")
    if isinstance(source, Shards):
        stems = [_shard_stem(url) for url in source.urls]
        counts = Counter(stems)
        unique = [
            f"{stem}-{index:06d}" if counts[stem] > 1 or stem in RESERVED_NAMES else stem
            for index, stem in enumerate(stems)
        ]
        return [Unit(name, index) for index, name in enumerate(unique)]
    assert isinstance(source, IndexedSource)
    starts = range(0, len(source), samples_per_shard)
    units = [
        Unit(f"tokens-{index:06d}", index, first, min(first + samples_per_shard, len(source)))
        for index, first in enumerate(starts)
    ]
    if not units:
        raise SmaltiError(f"{source} is empty: give a source with at least one sample.")
    return units


def input_bytes(source: Source, unit: Unit) -> int | None:
    """Return the size of the shard that a unit reads; None for URLs and other sources.

    A shard that was damaged and is copied again has another size: its unit is done again.
    """
    if not isinstance(source, Shards) or is_url(source.urls[unit.index]):
        return None
    try:
        return Path(source.urls[unit.index]).stat().st_size
    except OSError:
        return None


def _shard_stem(url: str) -> str:
    """Return the file name of a shard without ".tar" and the suffix of its compression, usable as a file name."""
    path = urlsplit(url.split()[-1]).path if is_url(url) else url
    name = re.sub(r"\.tar(\.\w+)?$", "", path.rstrip("/").rpartition("/")[2])
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "shard"
