"""Running a job, or a part of it, in one process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from smalti.data import IndexedSource
from smalti.errors import SmaltiError, explain_killed_worker
from smalti.tokenization.batch_encoder import BatchEncoder, PendingBatch
from smalti.tokenization.collector import Collector
from smalti.tokenization.job import OpenedJob
from smalti.tokenization.shard_output import MARKER_SUFFIX, Marker, remove_partial
from smalti.tokenization.unit_loader import LoadedRows, PartEnd, UnitDataset, unit_loader
from smalti.tokenization.units import Unit, input_bytes

PIPELINED_BATCHES = 2
"""Batches that a device computes or has computed before the first of them is written."""


@dataclass
class Progress:
    """How far a process is.

    Attributes:
        shards: number of shards of this process.
        shards_done: how many of them are done, including those that an earlier run completed.
        shards_skipped: how many of them an earlier run completed.
        samples: number of samples that this run has tokenized, or found unreadable.
        unreadable: how many of them could not be read.
        total_samples: number of samples of the shards that are not skipped; None if it is not known.
        finished_samples: number of samples of the shards that this run has completed.
    """

    shards: int
    shards_done: int = 0
    shards_skipped: int = 0
    samples: int = 0
    unreadable: int = 0
    total_samples: int | None = None
    finished_samples: int = 0

    @property
    def estimated_samples(self) -> int | None:
        """Number of samples of this run: the true one, or an estimate from the shards that it has completed."""
        if self.total_samples is not None:
            return self.total_samples
        finished = self.shards_done - self.shards_skipped
        return round(self.finished_samples / finished * (self.shards - self.shards_skipped)) if finished else None


@dataclass
class Summary:
    """What a process has done.

    Attributes:
        markers: the markers of its units.
        skipped: number of units that were already done.
    """

    markers: list[Marker] = field(default_factory=list)
    skipped: int = 0

    @property
    def rows(self) -> int:
        """Number of rows in its shards."""
        return sum(marker.rows for marker in self.markers)

    @property
    def failures(self) -> list[tuple[str, str]]:
        """Key, with the name of its shard, and reason of each sample that could not be read, and of damaged shards."""
        samples = [(f"{m.name}/{key}", reason) for m in self.markers for key, reason in m.failures]
        return samples + [(marker.name, marker.damage) for marker in self.markers if marker.damage is not None]


def run_units(opened: OpenedJob, units: Sequence[Unit], report: Callable[[Progress], None] = lambda _: None) -> Summary:
    """Tokenize units that are not done yet.

    Args:
        opened: the job.
        units: units that no other process works on.
        report: called with the progress.

    Returns:
        The markers of all these units, whether this call has tokenized them or an earlier one.

    Raises:
        SmaltiError: too many samples are unreadable (`Job.max_bad`), or a shard cannot be written.
    """
    job = opened.job
    remove_partial(opened.out, [unit.name for unit in units])
    summary = Summary()
    order = {unit.name: index for index, unit in enumerate(units)}
    pending: list[Unit] = []
    for unit in units:
        marker = find_marker(opened, unit)
        if marker is None:
            pending.append(unit)
        else:
            summary.markers.append(marker)
    summary.skipped = len(summary.markers)
    progress = Progress(len(units), summary.skipped, summary.skipped)
    if isinstance(opened.source, IndexedSource):
        progress.total_samples = sum((unit.stop or 0) - unit.first for unit in pending)
    if not pending:
        return summary

    def finish(marker: Marker) -> None:
        summary.markers.append(marker)
        progress.shards_done += 1
        progress.finished_samples += marker.samples
        report(progress)

    dataset = UnitDataset(
        opened.source, pending, opened.preprocessing, job.batch_size, opened.info.columns, job.workers
    )
    collector = Collector(
        opened.out, opened.info, pending, dataset.parts_per_unit, lambda unit: input_bytes(opened.source, unit), finish
    )
    try:
        _tokenize(opened, dataset, collector, progress, report)
    except RuntimeError as error:
        if (killed := explain_killed_worker(error)) is None:
            raise
        raise killed from error
    finally:
        collector.discard()
    summary.markers.sort(key=lambda marker: order[marker.name])
    check_failures(opened, summary)
    return summary


def _tokenize(
    opened: OpenedJob,
    dataset: UnitDataset,
    collector: Collector,
    progress: Progress,
    report: Callable[[Progress], None],
) -> None:
    """Load, tokenize and write all batches. The device computes a batch while an earlier one is written."""
    encoder = BatchEncoder(opened.tokenizer, opened.info, opened.vocabulary, opened.reduction)
    # Batches of one size can be computed by several methods, whose roundings differ: always choose the same one.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    queue: deque[tuple[LoadedRows | PartEnd, list[PendingBatch]]] = deque()

    def write_first() -> None:
        message, batches = queue.popleft()
        if isinstance(message, PartEnd):
            collector.end_part(message.unit, message.damage)
            return
        collector.add(message, [batch.result() for batch in batches])
        progress.samples += message.requested
        progress.unreadable += len(message.failures)
        _check_limit(opened, progress, message.failures)
        report(progress)

    for message in unit_loader(dataset, opened.job.workers):
        stacks = [] if isinstance(message, PartEnd) else message.stacks
        queue.append((message, [encoder.start(stack.pixels) for stack in stacks]))
        if len(queue) > PIPELINED_BATCHES:
            write_first()
    while queue:
        write_first()
    collector.wait()


def find_marker(opened: OpenedJob, unit: Unit, *, damaged: bool = False) -> Marker | None:
    """Return the marker of a unit that is done; None if it has to be tokenized.

    A unit is done again if its shard is missing or has another size, or if its input was damaged or has changed since.

    Args:
        opened: the job.
        unit: the unit.
        damaged: whether to return the marker of a unit whose input is damaged, too.

    Raises:
        SmaltiError: the marker is damaged, or of another job.
    """
    file = opened.out / f"{unit.name}{MARKER_SUFFIX}"
    if not file.is_file():
        return None
    marker = Marker.read(file)
    if (difference := marker.info.find_difference(opened.info)) is not None:
        raise SmaltiError(
            f"{file} is of a shard with another {difference} than this job: choose another --out, or delete the shard."
        )
    unchanged = marker.input_bytes == input_bytes(opened.source, unit)
    is_done = unchanged and (damaged or marker.damage is None)
    return marker if is_done and marker.find_missing(opened.out) is None else None


def check_failures(opened: OpenedJob, summary: Summary) -> None:
    """Check that not too much of some shards was unreadable.

    Raises:
        SmaltiError: the fraction of unreadable samples plus that of damaged shards exceeds `Job.max_bad`.
    """
    markers = summary.markers
    samples = sum(marker.samples for marker in markers if marker.damage is None)
    unreadable = sum(len(marker.failures) for marker in markers)
    damaged = sum(marker.damage is not None for marker in markers)
    share = (unreadable / samples if samples else 0.0) + (damaged / len(markers) if markers else 0.0)
    if share <= opened.job.max_bad:
        return
    parts = [f"{unreadable} of {samples} samples"] if unreadable else []
    parts += [f"{damaged} of {len(markers)} shards"] if damaged else []
    raise _too_many(opened, " and ".join(parts), summary.failures)


def _check_limit(opened: OpenedJob, progress: Progress, failures: Sequence[tuple[str, str]]) -> None:
    """Stop early if the limit is certain to be exceeded, because of the last failures among others."""
    total = progress.total_samples
    if total is not None and not progress.shards_skipped and progress.unreadable > opened.job.max_bad * total:
        raise _too_many(opened, f"{progress.unreadable} of {total} samples", failures)


def _too_many(opened: OpenedJob, what: str, failures: Sequence[tuple[str, str]]) -> SmaltiError:
    listed = "; ".join(f"{name} ({reason})" for name, reason in failures[:3])
    listed = f": {listed}{', ...' if len(failures) > 3 else ''}" if listed else ""
    return SmaltiError(
        f"{what} of {opened.source} could not be read, more than the maximum fraction {opened.job.max_bad:g}{listed}; "
        "fix or remove them, or increase --max-bad, and run the command again, which keeps what is done."
    )
