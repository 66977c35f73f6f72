"""Putting tokenized batches in order, and writing them to the shards of their units.

The groups of a unit can arrive out of order, and those of several units interleaved, because several workers load them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from smalti.tokenization.batch_encoder import EncodedBatch
from smalti.tokenization.dataset_info import DatasetInfo
from smalti.tokenization.rows import Row
from smalti.tokenization.shard_output import Marker, ShardOutput
from smalti.tokenization.unit_loader import LoadedRows
from smalti.tokenization.units import Unit


@dataclass
class _OpenUnit:
    """A unit that is being tokenized.

    Attributes:
        output: its shard; None if its input is damaged.
        remaining_parts: number of parts that have not ended.
        next_group: the first group that is not written completely.
        waiting: batches of later groups, by group, in order.
        failures: failures by group.
        samples: number of samples so far.
        positions: number of latent positions so far.
        sums: sums of each channel and of its square, (2, C) float64.
    """

    output: ShardOutput | None
    remaining_parts: int
    next_group: int = 0
    waiting: dict[int, list[tuple[LoadedRows, list[Row], np.ndarray | None]]] = field(default_factory=dict)
    failures: dict[int, list[tuple[str, str]]] = field(default_factory=dict)
    samples: int = 0
    positions: int = 0
    sums: np.ndarray | None = None
    damage: str | None = None


class Collector:
    """Writes the shards of units.

    Args:
        out: folder of the dataset.
        info: what each shard carries.
        units: the units.
        parts_per_unit: number of parts of each unit; see `UnitDataset`.
        input_bytes: function that returns the size of the input shard of a unit.
        finished: called with the marker of each unit that is done, in another thread.
    """

    def __init__(
        self,
        out: Path,
        info: DatasetInfo,
        units: list[Unit],
        parts_per_unit: list[int],
        input_bytes: Callable[[Unit], int | None],
        finished: Callable[[Marker], None],
    ) -> None:
        self._out = out
        self._info = info
        self._units = units
        self._parts_per_unit = parts_per_unit
        self._input_bytes = input_bytes
        self._finished = finished
        self._open: dict[int, _OpenUnit] = {}
        # Completing a shard waits for the disk. A thread does it, so that the device has work in the meantime.
        self._thread = ThreadPoolExecutor(1)
        self._completing: deque[Future[None]] = deque()

    def add(self, loaded: LoadedRows, encoded: list[EncodedBatch]) -> None:
        """Add a batch of rows. The batches of a group come in order.

        Args:
            loaded: the rows.
            encoded: the result of each stack of `loaded`.
        """
        unit = self._unit(loaded.unit)
        if unit.output is None:
            return
        unit.samples += loaded.requested
        rows, sums = _build_rows(loaded, encoded)
        unit.waiting.setdefault(loaded.group, []).append((loaded, rows, sums))
        while batches := unit.waiting.get(unit.next_group):
            batch, rows, sums = batches.pop(0)
            self._write(unit, batch, rows, sums)
            if batch.completes_group:
                del unit.waiting[unit.next_group]
                unit.next_group += 1

    def end_part(self, index: int, damage: str | None) -> None:
        """End a part of a unit, and the unit if it was the last one.

        Args:
            index: index of the unit.
            damage: why its input cannot be read to the end; None if it can.
        """
        unit = self._unit(index)
        unit.remaining_parts -= 1
        if damage is not None and unit.output is not None:
            unit.damage = damage
            unit.output.discard()
            unit.output = None
            unit.waiting.clear()
        if not unit.remaining_parts:
            self._completing.append(self._thread.submit(self._finish, index, self._open.pop(index)))
        while self._completing and self._completing[0].done():
            self._completing.popleft().result()

    def wait(self) -> None:
        """Wait until all shards that have ended are complete.

        Raises:
            SmaltiError: one of them cannot be written.
        """
        while self._completing:
            self._completing.popleft().result()

    def discard(self) -> None:
        """Complete the shards that have ended, and remove the others."""
        self._thread.shutdown()
        for unit in self._open.values():
            if unit.output is not None:
                unit.output.discard()

    def _unit(self, index: int) -> _OpenUnit:
        if index not in self._open:
            output = ShardOutput(self._out, self._units[index].name, self._info)
            self._open[index] = _OpenUnit(output, self._parts_per_unit[index])
        return self._open[index]

    def _write(self, unit: _OpenUnit, loaded: LoadedRows, rows: list[Row], sums: np.ndarray | None) -> None:
        assert unit.output is not None
        for row in rows:
            unit.output.add(row)
            unit.positions += row.layout.positions
        if sums is not None:
            for row in sums:  # one after another: the rounding must not depend on the batch
                unit.sums = row if unit.sums is None else unit.sums + row
        unit.failures.setdefault(loaded.group, []).extend(loaded.failures)

    def _finish(self, index: int, unit: _OpenUnit) -> None:
        name, input_bytes = self._units[index].name, self._input_bytes(self._units[index])
        if unit.output is None:
            marker = Marker(name, self._info, samples=unit.samples, damage=unit.damage, input_bytes=input_bytes)
        else:
            failures = [failure for group in sorted(unit.failures) for failure in unit.failures[group]]
            sums = None if unit.sums is None else (unit.positions, unit.sums[0].tolist(), unit.sums[1].tolist())
            marker = Marker(
                name,
                self._info,
                unit.output.rows,
                unit.samples,
                failures,
                None,
                input_bytes,
                unit.output.commit(),
                sums,
            )
        marker.write(self._out)
        self._finished(marker)


def _build_rows(loaded: LoadedRows, encoded: list[EncodedBatch]) -> tuple[list[Row], np.ndarray | None]:
    """Return the rows of a batch in order, and their sums (rows, 2, C) if there are any."""
    rows: dict[int, Row] = {}
    sums: dict[int, np.ndarray] = {}
    for stack, batch in zip(loaded.stacks, encoded, strict=True):
        for position, index in enumerate(stack.rows):
            head = loaded.heads[index]
            arrays = {name: values[position] for name, values in batch.arrays.items()}
            rows[index] = Row(head.key, head.version, arrays, batch.layout, head.rate, head.columns)
            if batch.sums is not None:
                sums[index] = batch.sums[position]
    order = range(len(rows))
    return [rows[index] for index in order], np.stack([sums[index] for index in order]) if sums else None
