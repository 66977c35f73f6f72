"""How a source looks to a loader's workers: keys or indices in, transformed samples and faults out.

A worker raises nothing for a bad file. It sends what went wrong along with the samples, and the loader judges it in the
main process: so the count is right whatever the number of workers, and the log is the program's own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from smalti.data.decode import UnreadableImageError, decode
from smalti.data.sampling import Key, mix
from smalti.data.shards import Cursor, Encoded, Shards
from smalti.data.sources import Fault, Images
from smalti.types import Batch

Transform = Callable[[Image.Image], Tensor]
"""An 8-bit RGB image to (3, H, W) float32 in [-1, 1]; it may draw from torch's global generator."""

TRIES = 16
"""Samples that are tried in the place of one before training gives it up."""


class Sample(NamedTuple):
    """What was asked for, or why it is not there.

    Attributes:
        pixels: (3, H, W) float32 in [-1, 1]; None: nothing could be read.
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
    """Samples, all of one size, to a batch (B, 3, H, W)."""
    pixels = [sample.pixels for sample in samples if sample.pixels is not None]
    names = [sample.name for sample in samples if sample.pixels is not None]
    faults = [fault for sample in samples for fault in sample.faults]
    bad = sum(any(not fault.shards for fault in sample.faults) for sample in samples)
    batch = Batch(torch.stack(pixels), names) if pixels else None
    return Loaded(batch, faults, sum(sample.asked for sample in samples), bad)


class TrainingView(Dataset[Sample]):
    """Training samples by key. What cannot be read is replaced by another sample that the key decides.

    Args:
        transform: its random numbers are decided by the seed and the key alone.
        seed: of the random numbers.
    """

    def __init__(self, transform: Transform, seed: int) -> None:
        self.transform = transform
        self.seed = seed

    @abstractmethod
    def read(self, key: Key, attempt: int) -> tuple[Image.Image, str]:
        """The image of a key and its name (attempt 0), or another in its place (1, 2, ...).

        Raises:
            UnreadableImageError: it is corrupt.
        """

    def __getitem__(self, key: Key) -> Sample:
        faults: list[Fault] = []
        for attempt in range(TRIES):
            try:
                image, name = self.read(key, attempt)
            except UnreadableImageError as error:
                faults.append(Fault(error.name, error.reason))
                continue
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(mix(self.seed, *key))
                return Sample(self.transform(image), name, tuple(faults))
        return Sample(None, "", tuple(faults))


class TrainingImages(TrainingView):
    """Images by key: sample i of an epoch is image i modulo their number, each visit with its own augmentation."""

    def __init__(self, source: Images, transform: Transform, seed: int) -> None:
        super().__init__(transform, seed)
        self.source = source

    def read(self, key: Key, attempt: int) -> tuple[Image.Image, str]:
        """The image of a key, or one drawn at random in its place."""
        index = mix(self.seed, *key, attempt) if attempt else key.sample
        return _named(self.source, index % len(self.source))


class TrainingShards(TrainingView):
    """The samples of a process's lanes by key, for keys that ascend within an epoch (others are right, but slow).

    Args:
        source: the shards.
        transform: of each image.
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
        self._cursors: dict[int, Cursor] = {}

    def __getitem__(self, key: Key) -> Sample:
        sample = super().__getitem__(key)
        broken = [fault for cursor in self._cursors.values() for fault in cursor.take_faults()]
        return sample._replace(faults=(*broken, *sample.faults))

    def read(self, key: Key, attempt: int) -> tuple[Image.Image, str]:
        """The sample of a key, or one that follows it in its lane."""
        cursor = self._cursor_at(key)
        encoded = cursor.peek(attempt)
        if encoded is None:
            raise UnreadableImageError(str(self.source), "its shards hold no more samples")
        return _decoded(encoded)

    def _cursor_at(self, key: Key) -> Cursor:
        if key.epoch != self._epoch:
            self._epoch, self._cursors = key.epoch, {}
        lanes = self.source.lanes_of(self.rank, self.world)
        batch, place = divmod(key.sample, self.batch)
        lane, position = batch % lanes, batch // lanes * self.batch + place
        cursor = self._cursors.get(lane)
        if cursor is None or cursor.position > position:
            items = self.source.lane(lane, seed=self.seed, epoch=key.epoch, rank=self.rank, world=self.world)
            cursor = self._cursors[lane] = Cursor(items)
        cursor.seek(position)
        return cursor


class EvaluationImages(Dataset[Sample]):
    """Images by index, each as it is: what cannot be read is left out."""

    def __init__(self, source: Images, transform: Transform) -> None:
        self.source = source
        self.transform = transform

    def __getitem__(self, index: int) -> Sample:
        return _attempt(lambda: _named(self.source, index), self.transform)


class EvaluationShards(IterableDataset[Sample]):
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
                yield _attempt(lambda item=item: _decoded(item), self.transform)


def _named(source: Images, index: int) -> tuple[Image.Image, str]:
    name = source.name(index)
    try:
        return source[index], name
    except UnreadableImageError as error:
        raise UnreadableImageError(name, error.reason) from error


def _decoded(encoded: Encoded) -> tuple[Image.Image, str]:
    if encoded.image is None:
        raise UnreadableImageError(encoded.name, "no image in the sample")
    try:
        return decode(encoded.image), encoded.name
    except UnreadableImageError as error:
        raise UnreadableImageError(encoded.name, error.reason) from error


def _attempt(read: Callable[[], tuple[Image.Image, str]], transform: Transform) -> Sample:
    try:
        image, name = read()
    except UnreadableImageError as error:
        return Sample(None, "", (Fault(error.name, error.reason),))
    return Sample(transform(image), name)
