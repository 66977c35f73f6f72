"""The loader: iterates over batches, and reports unreadable samples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from torch.utils.data import DataLoader

from smalti.data.datasets import LoadedBatch
from smalti.data.sampler import TrainingPosition, TrainingSampler
from smalti.errors import SmaltiError, explain_killed_worker
from smalti.pixels import to_pixels
from smalti.types import Batch

logger = logging.getLogger("smalti.data")


@dataclass
class Skipped:
    """The samples that a loader could not read. Each of several processes counts its own.

    Attributes:
        requested: number of samples requested so far, over all epochs of the loader.
        count: how many of them could not be read; a file that is requested twice counts twice.
        names: the reason for each sample or shard that was skipped, by name.
    """

    requested: int = 0
    count: int = 0
    names: dict[str, str] = field(default_factory=dict)

    def add(self, loaded: LoadedBatch) -> None:
        """Count the samples of a batch, and log the names of failures that are new."""
        self.requested += loaded.requested
        self.count += loaded.unreadable
        for failure in loaded.failures:
            if failure.name not in self.names:
                self.names[failure.name] = failure.reason
                logger.warning("Skipped %s: %s.", failure.name, failure.reason)


@dataclass(frozen=True)
class TrainingOrder:
    """The order of a training loader, and where it starts.

    Attributes:
        sampler: determines the order.
        get_position: returns the training position. It is called at the start of each iteration.
        settings: the settings, by name, that must be the same for a run to resume exactly.
    """

    sampler: TrainingSampler
    get_position: Callable[[], TrainingPosition]
    settings: dict[str, Any]


class Loader:
    """Iterates over the batches of a DataLoader whose workers report unreadable samples. One iteration is one epoch.

    Training or evaluation stops if the fraction of unreadable data in an epoch exceeds `max_bad`. This fraction is the
    number of unreadable samples divided by the number of requested samples, plus the fraction of shards that are damaged or
    missing. The error is raised as soon as the limit is certain to be exceeded (with 20 files and a limit of 0.01, at the
    first unreadable file), or at the end if the number of samples is not known in advance (shards in evaluation). Each of
    several processes checks its own samples.

    Args:
        batches: loader whose batches were made by `collate`.
        source: name of the source in messages.
        max_bad: maximum fraction of unreadable samples.
        samples: number of samples requested per epoch; None if not known in advance.
        as_uint8: whether to yield 8-bit pixels unconverted, to be converted by `smalti.pixels.to_pixels` on another device.
        order: order of training, where every batch must be complete and an iteration may start within an epoch; None for
            evaluation, where unreadable samples are left out.
        keep_errors: whether to set `error` and repeat the last batch instead of raising an error: this process can take
            part in the collectives of the step, in which all processes learn that it has failed. An error before the first
            batch is raised.

    Attributes:
        skipped: the samples that could not be read so far.
        error: why no batch can be loaded anymore, with `keep_errors`; None as long as there is no error.
        min_length: number that `len` returns at least.

    Raises:
        SmaltiError: `max_bad` is not in [0, 1]; while iterating, too many samples are unreadable in this process, or a
            worker was killed.
    """

    def __init__(
        self,
        batches: DataLoader[Any],
        *,
        source: str,
        max_bad: float,
        samples: int | None,
        as_uint8: bool = False,
        order: TrainingOrder | None = None,
        keep_errors: bool = False,
    ) -> None:
        if not 0 <= max_bad <= 1:
            raise SmaltiError(f"max_bad is {max_bad}: give the maximum fraction of unreadable samples, from 0 to 1.")
        self.skipped = Skipped()
        self._batches = batches
        self._source = source
        self._max_bad = max_bad
        self._samples = samples
        self._as_uint8 = as_uint8
        self._order = order
        self._keep_errors = keep_errors
        self.error: Exception | None = None
        self.min_length = 0
        self._last: Batch | None = None

    def __len__(self) -> int:
        """Return the number of batches of a complete epoch, wherever it starts; at least `min_length`.

        Raises:
            TypeError: shards in evaluation, whose number of samples is not known.
        """
        return max(len(self._batches), self.min_length)

    def __iter__(self) -> Iterator[Batch]:
        if not self._keep_errors:
            yield from self._load()
            return
        try:
            for batch in self._load():
                self._last = batch
                yield batch
        except Exception as error:  # any: the other processes wait for this one
            if self._last is None:
                raise
            self.error = error
            while True:
                yield self._last

    def _load(self) -> Iterator[Batch]:
        # A generator runs when its first batch is requested. By then, a trainer that resumes knows its position.
        if self._order:
            self._order.sampler.position = self._order.get_position()
        requested, unreadable = 0, 0
        broken_shards: dict[str, float] = {}
        for loaded in self._load_unchecked():
            requested, unreadable = requested + loaded.requested, unreadable + loaded.unreadable
            broken_shards |= {failure.name: 1 / failure.num_shards for failure in loaded.failures if failure.num_shards}
            self.skipped.add(loaded)
            batch = loaded.batch
            if self._order and loaded.requested > (0 if batch is None else len(batch.names)):
                raise self._error(f"No readable replacement was found for an unreadable sample of {self._source}")
            self._check_limit(unreadable, self._samples, sum(broken_shards.values()))
            if batch is not None:
                yield batch if self._as_uint8 else Batch(to_pixels(batch.pixels), batch.names)
        self._check_limit(unreadable, self._samples or requested, sum(broken_shards.values()))
        if broken_shards and not requested:
            raise self._error(f"{self._source} contains no readable sample")

    def _load_unchecked(self) -> Iterator[LoadedBatch]:
        """Iterate over the batches of the DataLoader.

        Raises:
            SmaltiError: a worker was killed.
        """
        iterator = iter(self._batches)
        try:
            yield from iterator
        except (RuntimeError, OSError, EOFError) as error:
            killed = _find_killed_worker(error, getattr(iterator, "_workers", []))
            if killed is None:
                raise
            # While the workers are registered, PyTorch raises the error again whenever any child process ends.
            with suppress(RuntimeError):
                iterator._shutdown_workers()  # pyright: ignore[reportAttributeAccessIssue]
            self.close()
            raise killed from error

    def close(self) -> None:
        """Stop workers that were kept for another epoch.

        They stop when their last reference is deleted. If this is left to the garbage collector, which may delete their
        queues first, each worker takes five seconds.
        """
        self._batches._iterator = None

    def state_dict(self) -> dict[str, Any]:
        """Return the settings that determine the order, for a checkpoint. The trainer stores the position itself."""
        return dict(self._order.settings) if self._order else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare the settings with those of a checkpoint, and warn if the run cannot resume exactly."""
        warn_about_changes(state, self.state_dict())

    def _check_limit(self, unreadable: int, samples: int | None, broken_fraction: float) -> None:
        if (unreadable / samples if samples else 0.0) + broken_fraction <= self._max_bad:
            return
        parts = [f"{unreadable} of the {samples} samples of an epoch"] if unreadable else []
        parts += [f"{broken_fraction:.0%} of the shards"] if broken_fraction else []
        raise self._error(
            f"{' and '.join(parts)} could not be read from {self._source}, more than the maximum fraction "
            f"{self._max_bad:g}"
        )

    def _error(self, problem: str) -> SmaltiError:
        examples = [f"{name} ({reason})" for name, reason in list(self.skipped.names.items())[:3]]
        others = len(self.skipped.names) - len(examples)
        listed = ", ".join(examples) + (f" and {others} more" if others else "")
        return SmaltiError(f"{problem}: {listed}; fix or remove them, or increase max_bad.")


def _find_killed_worker(error: Exception, workers: list[Any]) -> SmaltiError | None:
    """Return the error for users if a worker was killed; None if the loader failed for another reason.

    Args:
        error: what the loader raised. If a worker was killed after it announced a batch, the connection to it fails.
        workers: the processes.
    """
    if isinstance(error, RuntimeError):
        return explain_killed_worker(error)
    try:
        ended = wait([worker.sentinel for worker in workers], timeout=1.0)
        for worker in workers:
            worker.join(1.0 if worker.sentinel in ended else 0.0)  # its exit code may come a little later
        killed = [str(worker.pid) for worker in workers if worker.exitcode]
    except RuntimeError as raised_by_signal_handler:
        return explain_killed_worker(raised_by_signal_handler)
    message = f"DataLoader worker (pid(s) {', '.join(killed)}) exited unexpectedly"
    return explain_killed_worker(RuntimeError(message)) if killed else None


def warn_about_changes(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Log a warning that names the settings that differ from those of the checkpoint."""
    changes = [
        f"{name} was {saved.get(name)} and is now {value}"
        for name, value in current.items()
        if saved.get(name) != value
    ]
    if changes:
        logger.warning(
            "The data settings differ from those of the checkpoint, so the run does not resume exactly: %s.",
            ", ".join(changes),
        )
