"""The loader: batches out, and an account of what had to be skipped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader

from smalti.data.datasets import Loaded
from smalti.data.sampler import Position, TrainingSampler
from smalti.errors import SmaltiError
from smalti.types import Batch

logger = logging.getLogger("smalti.data")


@dataclass
class Skipped:
    """What a loader could not read, counted in the main process; of a process of several, its own share.

    Attributes:
        asked: samples asked for so far, over all epochs of the loader.
        count: those of them that could not be read; a file that is met twice counts twice.
        names: every sample or shard that was skipped, and why.
    """

    asked: int = 0
    count: int = 0
    names: dict[str, str] = field(default_factory=dict)

    def add(self, loaded: Loaded) -> None:
        """Count a batch, and name in the log what was not met before."""
        self.asked += loaded.asked
        self.count += loaded.bad
        for fault in loaded.faults:
            if fault.name not in self.names:
                self.names[fault.name] = fault.reason
                logger.warning("Skipped %s: %s.", fault.name, fault.reason)


@dataclass(frozen=True)
class Training:
    """What a loader for training has besides.

    Attributes:
        sampler: that decides the order.
        position: asked at the start of each iteration where in training it stands.
        description: what must be the same when a run is resumed, for it to go on exactly; by name.
    """

    sampler: TrainingSampler
    position: Callable[[], Position]
    description: dict[str, Any]


class Loader:
    """Batches of a DataLoader whose workers report what they skipped; an epoch is one iteration.

    What may be skipped is a share of an epoch: the samples that were skipped over those that the epoch asks for, plus, of
    shards that broke off, their share of the shards. It is judged as soon as it is certain to be passed (of 20 files with
    the share 0.01, at the first bad one), and at the end where the number of samples is not known before (shards in
    evaluation). On several processes each judges its own part.

    Args:
        batches: what is loaded; `collate` made each.
        source: what it is called in messages.
        max_bad: greatest share that may be skipped.
        samples: that an epoch asks for; None: not known.
        training: where every batch must be whole, and an iteration may start late; None: samples that were skipped are
            left out.

    Attributes:
        skipped: what could not be read so far.
    """

    def __init__(
        self,
        batches: DataLoader[Any],
        *,
        source: str,
        max_bad: float,
        samples: int | None,
        training: Training | None = None,
    ) -> None:
        if not 0 <= max_bad <= 1:
            raise SmaltiError(f"max_bad is {max_bad}: give the share of samples that may be skipped, from 0 to 1.")
        self.skipped = Skipped()
        self._batches = batches
        self._source = source
        self._max_bad = max_bad
        self._samples = samples
        self._training = training

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever it starts; a TypeError for shards in evaluation."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        # All of this runs when the first batch is asked for: by then a trainer that resumes knows where it stands.
        if self._training:
            self._training.sampler.position = self._training.position()
        asked, bad = 0, 0
        broken: dict[str, float] = {}
        for loaded in self._batches:
            asked, bad = asked + loaded.asked, bad + loaded.bad
            broken |= {fault.name: 1 / fault.shards for fault in loaded.faults if fault.shards}
            self.skipped.add(loaded)
            batch = loaded.batch
            if self._training and (batch is None or len(batch.names) < loaded.asked):
                raise self._too_many(f"No sample of {self._source} could be read in the place of one that was skipped")
            self._judge(bad, self._samples, sum(broken.values()))
            if batch is not None:
                yield batch
        self._judge(bad, self._samples or asked, sum(broken.values()))
        if broken and not asked:
            raise self._too_many(f"{self._source} holds no sample that could be read")

    def close(self) -> None:
        """Let go of workers that were kept for another epoch.

        They stop with their last reference. Left to the garbage collector, which may take their queues from them first,
        each would take five seconds.
        """
        self._batches._iterator = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: not the place, which the trainer's own progress says, but what the order depends on."""
        return dict(self._training.description) if self._training else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare with what the checkpoint was written with, and warn where it cannot go on exactly."""
        warn_of_changes(state, self.state_dict())

    def _judge(self, bad: int, samples: int | None, broken: float) -> None:
        if (bad / samples if samples else 0.0) + broken <= self._max_bad:
            return
        parts = [f"{bad} of the {samples} samples of an epoch"] if bad else []
        parts += [f"{broken:.0%} of the shards"] if broken else []
        raise self._too_many(
            f"{' and '.join(parts)} could not be read from {self._source}, more than the share {self._max_bad:g} that may "
            "be skipped"
        )

    def _too_many(self, what: str) -> SmaltiError:
        some = [f"{name} ({reason})" for name, reason in list(self.skipped.names.items())[:3]]
        more = len(self.skipped.names) - len(some)
        named = ", ".join(some) + (f" and {more} more" if more else "")
        return SmaltiError(f"{what}: {named}; mend or remove them, or raise max_bad.")


def warn_of_changes(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Name in the log what a run's data depend on and is not what it was when the checkpoint was written."""
    changed = [f"{name} was {saved.get(name)} and is {now[name]}" for name in now if saved.get(name) != now[name]]
    if changed:
        logger.warning(
            "The run goes on with other data than it was saved with, so not exactly: %s.", ", ".join(changed)
        )
