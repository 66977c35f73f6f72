"""How a source looks to a loader's workers: keys or indices in, transformed samples and faults out.

A worker raises nothing for a bad file. It sends what went wrong along with the samples, and the loader judges it in the
main process: so the count is right whatever the number of workers, and the log is the program's own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from smalti.data.clip_transforms import Clip
from smalti.data.image_decoding import UnreadableImageError
from smalti.data.sampler import Key
from smalti.data.shard_cursor import ShardCursor
from smalti.data.shard_reading import Encoded
from smalti.data.shards import Shards
from smalti.data.sources import Fault, IndexedSource
from smalti.errors import UnreadableError
from smalti.seeds import derive_seed
from smalti.types import Batch

Transform = Callable[[Any], Tensor | Clip]
"""An image to (3, H, W) float32 in [-1, 1], or footage to a clip; it may draw from torch's global generator."""

TRIES = 16
"""Samples that are tried in the place of one before training gives it up."""


class Item(NamedTuple):
    """An image or a video before it is read.

    Attributes:
        name: in its source.
        load: gives it, or raises what is wrong with it.
    """

    name: str
    load: Callable[[], Any]


class Sample(NamedTuple):
    """What was asked for, or why it is not there.

    Attributes:
        pixels: (3, H, W) or (3, T, H, W) float32 in [-1, 1]; None: nothing could be read.
        name: of the sample that was read.
        faults: what was met on the way.
        asked: 1, or 0 where only a fault is reported.
    """

    pixels: Tensor | None
    name: str
    faults: tuple[Fault, ...] = ()
    asked: int = 1


class Loaded(NamedTuple):
    """A batch and what went wrong on the way to it.

    Attributes:
        batch: of the samples that could be read; None: none could.
        faults: of all samples, and of what was tried in their places.
        asked: samples that were asked for.
        bad: those of them that could not be read.
    """

    batch: Batch | None
    faults: list[Fault]
    asked: int
    bad: int


def collate(samples: list[Sample]) -> Loaded:
    """Samples, all of one size, to a batch (B, 3, H, W) or (B, 3, T, H, W)."""
    pixels = [sample.pixels for sample in samples if sample.pixels is not None]
    names = [sample.name for sample in samples if sample.pixels is not None]
    faults = [fault for sample in samples for fault in sample.faults]
    bad = sum(any(not fault.shards for fault in sample.faults) for sample in samples)
    batch = Batch(torch.stack(pixels), names) if pixels else None
    return Loaded(batch, faults, sum(sample.asked for sample in samples), bad)


class TrainingDataset(Dataset[Sample]):
    """Training samples by key. What cannot be read is replaced by another sample that the key decides.

    Args:
        transform: its random numbers are decided by the seed and the key alone.
        seed: of the random numbers.
    """

    def __init__(self, transform: Transform, seed: int) -> None:
        self.transform = transform
        self.seed = seed

    @abstractmethod
    def pick(self, key: Key, attempt: int) -> Item:
        """What a key asks for (attempt 0), or another in its place (1, 2, ...)."""

    def __getitem__(self, key: Key) -> Sample:
        faults: list[Fault] = []
        for attempt in range(TRIES):
            item = self.pick(key, attempt)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(self.seed, *key))
                sample = _attempt(item, self.transform)
            faults += sample.faults
            if sample.pixels is not None:
                return sample._replace(faults=tuple(faults))
        return Sample(None, "", tuple(faults))


class IndexedTrainingDataset(TrainingDataset):
    """Items by key: sample i of an epoch is item i modulo their number, each visit with its own augmentation."""

    def __init__(self, source: IndexedSource, transform: Transform, seed: int) -> None:
        super().__init__(transform, seed)
        self.source = source

    def pick(self, key: Key, attempt: int) -> Item:
        """The item of a key, or one drawn at random in its place."""
        index = derive_seed(self.seed, *key, attempt) if attempt else key.sample
        return _indexed(self.source, index % len(self.source))


class ShardTrainingDataset(TrainingDataset):
    """The samples of a process's lanes by key, for keys that ascend within an epoch (others are right, but slow).

    Args:
        source: the shards.
        transform: of each sample.
        seed: of order and augmentation.
        batch: samples in a row that come from one lane.
        rank: of the process.
        world: number of processes.
    """

    def __init__(self, source: Shards, transform: Transform, seed: int, batch: int, rank: int, world: int) -> None:
        super().__init__(transform, seed)
        self.source = source
        self.batch = batch
        self.rank = rank
        self.world = world
        self._epoch = -1
        self._cursors: dict[int, ShardCursor] = {}

    def __getitem__(self, key: Key) -> Sample:
        sample = super().__getitem__(key)
        broken = [fault for cursor in self._cursors.values() for fault in cursor.take_faults()]
        return sample._replace(faults=(*broken, *sample.faults))

    def pick(self, key: Key, attempt: int) -> Item:
        """The sample of a key, or one that follows it in its lane."""
        encoded = self._cursor_at(key).peek(attempt)
        return _encoded(self.source, encoded) if encoded else Item(str(self.source), _no_more)

    def _cursor_at(self, key: Key) -> ShardCursor:
        if key.epoch != self._epoch:
            self._epoch, self._cursors = key.epoch, {}
        lanes = self.source.lanes_of(self.rank, self.world)
        batch, place = divmod(key.sample, self.batch)
        lane, position = batch % lanes, batch // lanes * self.batch + place
        cursor = self._cursors.get(lane)
        if cursor is None or cursor.position > position:
            items = self.source.lane(lane, seed=self.seed, epoch=key.epoch, rank=self.rank, world=self.world)
            cursor = self._cursors[lane] = ShardCursor(items)
        cursor.seek(position)
        return cursor


class IndexedEvaluationDataset(Dataset[Sample]):
    """Items by index, each as it is: what cannot be read is left out."""

    def __init__(self, source: IndexedSource, transform: Transform) -> None:
        self.source = source
        self.transform = transform

    def __getitem__(self, index: int) -> Sample:
        return _attempt(_indexed(self.source, index), self.transform)


class ShardEvaluationDataset(IterableDataset[Sample]):
    """Every sample of the shards once, over all processes and workers: each takes whole shards in turn."""

    def __init__(self, source: Shards, transform: Transform, rank: int, world: int) -> None:
        self.source = source
        self.transform = transform
        self.rank = rank
        self.world = world

    def __iter__(self) -> Iterator[Sample]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for item in self.source.part(self.rank + self.world * worker, self.world * workers):
            if isinstance(item, Fault):
                shards = len(self.source.urls[self.rank :: self.world])
                yield Sample(None, "", (item._replace(shards=shards),), asked=0)
            else:
                yield _attempt(_encoded(self.source, item), self.transform)


def _indexed(source: IndexedSource, index: int) -> Item:
    return Item(source.name(index), lambda: source[index])


def _encoded(source: Shards, encoded: Encoded) -> Item:
    return Item(encoded.name, lambda: source.item(encoded))


def _no_more() -> NoReturn:
    raise UnreadableImageError("", "its shards hold no more samples")


def _attempt(item: Item, transform: Transform) -> Sample:
    try:
        result = transform(item.load())
    except UnreadableError as error:
        return Sample(None, "", (Fault(item.name, error.reason),))
    return Sample(*result) if isinstance(result, Clip) else Sample(result, item.name)
