"""Loading units in worker processes: groups of prepared samples, whose composition depends on the unit only.

A group has `group_size` consecutive samples of a unit. Batches never cross groups: a tokenizer then sees the same
batches for any number of workers and processes, after any interruption, and computes the same bits.

Workers divide the units among themselves (shards, if there are enough of them), or the groups of each unit (files, and few
shards). The receiver puts the groups of a unit in order.

Shapes: B samples of one size; H, W pixels; T frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import islice, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from smalti.data import ImageFiles, IndexedSource, Shards, Source, VideoFiles
from smalti.data.shard_reading import EncodedSample
from smalti.data.sources import ReadFailure
from smalti.errors import SmaltiError, UnreadableError
from smalti.tokenization.columns import read_sidecars, select_columns
from smalti.tokenization.preprocessing import PreparedSample, Preprocessing
from smalti.tokenization.rows import Columns
from smalti.tokenization.units import Unit


class RowHead(NamedTuple):
    """What is known about a row before it is tokenized; see `smalti.tokenization.rows.Row`."""

    key: str
    version: int
    rate: Fraction | None
    columns: Columns


class Stack(NamedTuple):
    """Pixels of one size.

    Attributes:
        pixels: (B, 3, H, W) or (B, 3, T, H, W) uint8.
        rows: index in the batch of each.
    """

    pixels: Tensor
    rows: list[int]


class LoadedRows(NamedTuple):
    """A batch of rows of a group.

    Attributes:
        unit: index of the unit in the list of units.
        group: index of the group in the unit.
        heads: the rows in order.
        stacks: their pixels by size.
        failures: (key, reason) of samples that could not be read.
        requested: number of samples of the group that this batch completes.
        completes_group: whether it is the last batch of its group.
    """

    unit: int
    group: int
    heads: list[RowHead]
    stacks: list[Stack]
    failures: list[tuple[str, str]]
    requested: int
    completes_group: bool


class PartEnd(NamedTuple):
    """The end of what one worker reads of a unit.

    Attributes:
        unit: index of the unit in the list of units.
        damage: why the shard cannot be read to its end; None if it can.
    """

    unit: int
    damage: str | None = None


class _Part(NamedTuple):
    """What one worker reads of a unit: groups first, first + step, ... of files; groups first to stop - 1 of shards."""

    unit: int
    first: int = 0
    step: int = 1
    stop: int | None = None


class UnitDataset(IterableDataset[LoadedRows | PartEnd]):
    """Yields the groups of units.

    Args:
        source: images or videos.
        units: the units to read.
        preprocessing: prepares the versions of a sample.
        group_size: samples per group, and maximum number of rows per batch.
        columns: columns to keep.
        workers: number of worker processes.

    Attributes:
        parts_per_unit: number of parts that each unit is read in.
    """

    def __init__(
        self,
        source: Source,
        units: Sequence[Unit],
        preprocessing: Preprocessing,
        group_size: int,
        columns: Sequence[str],
        workers: int,
    ) -> None:
        self._source = source
        self._units = list(units)
        self._preprocessing = preprocessing
        self._group_size = group_size
        self._columns = tuple(columns)
        self._parts = self._plan(max(1, workers))
        self.parts_per_unit = [
            sum(part.unit == unit for parts in self._parts for part in parts) for unit in range(len(units))
        ]

    def __iter__(self) -> Iterator[LoadedRows | PartEnd]:
        info = get_worker_info()
        for part in self._parts[info.id if info else 0]:
            try:
                yield from self._read_part(part)
            except _DamagedShardError as error:
                yield PartEnd(part.unit, str(error))
            else:
                yield PartEnd(part.unit)

    def _plan(self, workers: int) -> list[list[_Part]]:
        """Return the parts of each worker."""
        count = len(self._units)
        if not isinstance(self._source, Shards):
            return [[_Part(unit, worker, workers) for unit in range(count)] for worker in range(workers)]
        if workers == 1 or count >= 2 * workers or not self._source.local:
            return [[_Part(unit) for unit in range(worker, count, workers)] for worker in range(workers)]
        parts: list[list[_Part]] = [[] for _ in range(workers)]
        for unit in range(count):
            groups = max(1, -(-self._source.count_shard(self._units[unit].index) // self._group_size))
            edges = [groups * worker // workers for worker in range(workers + 1)]
            for worker, (first, stop) in enumerate(pairwise(edges)):
                if first < stop:  # the last part reads to the end, whatever the headers say
                    parts[worker].append(_Part(unit, first, stop=None if stop == groups else stop))
        return parts

    def _read_part(self, part: _Part) -> Iterator[LoadedRows]:
        if isinstance(self._source, Shards):
            groups = self._read_shard_groups(self._source, part)
        else:
            groups = self._read_indexed_groups(part)
        for group, samples in groups:
            yield from self._prepare_group(part.unit, group, samples)

    def _read_indexed_groups(self, part: _Part) -> Iterator[tuple[int, list[_LazySample]]]:
        source, unit = self._source, self._units[part.unit]
        assert isinstance(source, IndexedSource)
        assert unit.stop is not None
        starts = range(unit.first, unit.stop, self._group_size)
        for group in range(part.first, len(starts), part.step):
            indices = range(starts[group], min(starts[group] + self._group_size, unit.stop))
            yield group, [self._indexed_sample(source, index) for index in indices]

    def _indexed_sample(self, source: IndexedSource, index: int) -> _LazySample:
        paths = source.paths if isinstance(source, ImageFiles | VideoFiles) and self._columns else None
        columns = partial(read_sidecars, paths[index], self._columns) if paths is not None else dict
        return _LazySample(source.name(index), partial(source.__getitem__, index), columns)

    def _read_shard_groups(self, source: Shards, part: _Part) -> Iterator[tuple[int, list[_LazySample]]]:
        """Yield groups of samples with an image or video. Samples without one belong to the group of the one before."""
        shard = self._units[part.unit].index
        prefix = len(source.urls[shard]) + 1
        items = source.read_shard(shard, part.first * self._group_size, with_columns=bool(self._columns))
        group, readable = part.first, 0
        samples: list[_LazySample] = []
        for item in items:
            if isinstance(item, ReadFailure):
                raise _DamagedShardError(item.reason)
            if item.content is not None:
                if readable == self._group_size:
                    yield group, samples
                    group, readable, samples = group + 1, 0, []
                    if group == part.stop:
                        return
                readable += 1
            samples.append(_shard_sample(source, item, item.name[prefix:]))
        if samples:
            yield group, samples

    def _prepare_group(self, unit: int, group: int, samples: list[_LazySample]) -> Iterator[LoadedRows]:
        failures: list[tuple[str, str]] = []
        rows = self._prepare_rows(samples, failures)
        batch = list(islice(rows, self._group_size))
        while following := list(islice(rows, self._group_size)):
            yield _collate(unit, group, batch, [], 0, completes_group=False)
            batch = following
        yield _collate(unit, group, batch, failures, len(samples), completes_group=True)

    def _prepare_rows(
        self, samples: list[_LazySample], failures: list[tuple[str, str]]
    ) -> Iterator[tuple[PreparedSample, Columns]]:
        for sample in samples:
            try:
                columns = select_columns(sample.load_columns(), self._columns, sample.key)
                for prepared in self._preprocessing(sample.key, sample.load()):
                    yield prepared, columns
            except UnreadableError as error:
                failures.append((sample.key, error.summary))


class _LazySample(NamedTuple):
    """A sample that is not read yet: its key, and functions that return its image or video, and its columns."""

    key: str
    load: Any
    load_columns: Any


class _DamagedShardError(Exception):
    """A shard cannot be read to its end."""


def _shard_sample(source: Shards, sample: EncodedSample, key: str) -> _LazySample:
    return _LazySample(key, partial(source.decode, sample), lambda: sample.columns)


def _collate(
    unit: int,
    group: int,
    rows: list[tuple[PreparedSample, Columns]],
    failures: list[tuple[str, str]],
    requested: int,
    *,
    completes_group: bool,
) -> LoadedRows:
    heads = [RowHead(prepared.key, prepared.version, prepared.rate, columns) for prepared, columns in rows]
    by_size: dict[torch.Size, list[int]] = {}
    for index, (prepared, _) in enumerate(rows):
        by_size.setdefault(prepared.pixels.shape, []).append(index)
    stacks = [Stack(torch.stack([rows[i][0].pixels for i in indices]), indices) for indices in by_size.values()]
    return LoadedRows(unit, group, heads, stacks, failures, requested, completes_group)


def unit_loader(dataset: UnitDataset, workers: int) -> DataLoader[LoadedRows | PartEnd]:
    """Return a loader of the groups of a dataset.

    Args:
        dataset: the dataset, constructed for the same number of workers.
        workers: number of worker processes; 0 to load in this process.

    Raises:
        SmaltiError: `workers` is negative.
    """
    if workers < 0:
        raise SmaltiError(f"workers is {workers}: give 0 or more.")
    return DataLoader(
        dataset, batch_size=None, num_workers=workers, collate_fn=_unchanged, pin_memory=torch.cuda.is_available()
    )


def _unchanged(message: Any) -> Any:
    """Return a message unchanged: PyTorch's default would visit each value of its rows."""
    return message
