"""Datasets for the workers of a loader: they map keys or indices to transformed samples or failures.

A worker raises no error for an unreadable file. It returns the failure along with the samples, and the loader handles it in
the main process. This way, the count is correct for any number of workers, and only the main process writes the log.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

from smalti.data.clip_transforms import Clip
from smalti.data.image_transforms import TrainingTransform
from smalti.data.sampler import SampleKey
from smalti.data.shard_lanes import LaneReader
from smalti.data.shard_plan import ShardPlan
from smalti.data.shard_reading import EncodedSample
from smalti.data.shards import Shards
from smalti.data.sources import ImageSource, IndexedSource, ReadFailure
from smalti.errors import UnreadableError
from smalti.images import UnreadableImageError
from smalti.seeds import derive_seed
from smalti.types import Batch

Transform = Callable[[Any], Tensor | Clip]
"""Function from an image to (3, H, W) float32 in [-1, 1], or from a `VideoSegment` to a `Clip`.

It may draw from torch's global generator. If the class that defines its `forward` also defines `to_uint8`, the workers
call this method instead: it returns uint8, of which a quarter as many bytes are transferred.
"""

MAX_ATTEMPTS = 16
"""Number of samples to try for one training sample before training stops."""


class LazyItem(NamedTuple):
    """An image or a video that is not read yet.

    Attributes:
        name: its name in the source.
        load: function that reads it, or raises an `UnreadableError`.
        file: path or bytes of the image file that `load` decodes, if this is all that `load` does; None otherwise.
    """

    name: str
    load: Callable[[], Any]
    file: Path | bytes | None = None


class LoadedSample(NamedTuple):
    """A requested sample, or the reason why it is missing.

    Attributes:
        pixels: (3, H, W) or (3, T, H, W), uint8 or float32 in [-1, 1]; None if nothing could be read.
        name: name of the sample that was read.
        failures: the unreadable samples that it replaces, and damaged or missing shards.
        requested: 1 for a requested sample, readable or not; 0 for the failure of a shard.
    """

    pixels: Tensor | None
    name: str
    failures: tuple[ReadFailure, ...] = ()
    requested: int = 1


class LoadedBatch(NamedTuple):
    """A batch, and what could not be read.

    Attributes:
        batch: the samples that could be read, with pixels in uint8 or in [-1, 1]; None if there are none.
        failures: failures of all samples, including those of replacements.
        requested: number of samples that were requested.
        unreadable: how many of them could not be read.
    """

    batch: Batch | None
    failures: list[ReadFailure]
    requested: int
    unreadable: int


def collate(samples: list[LoadedSample]) -> LoadedBatch:
    """Stack samples of one size to a batch (B, 3, H, W) or (B, 3, T, H, W), in a worker directly in shared memory."""
    pixels = [sample.pixels for sample in samples if sample.pixels is not None]
    names = [sample.name for sample in samples if sample.pixels is not None]
    failures = [failure for sample in samples for failure in sample.failures]
    unreadable = sum(any(not failure.num_shards for failure in sample.failures) for sample in samples)
    batch = Batch(default_collate(pixels), names) if pixels else None
    return LoadedBatch(batch, failures, sum(sample.requested for sample in samples), unreadable)


class TrainingDataset(Dataset[LoadedSample]):
    """Base class of training datasets. An unreadable sample is replaced by another one, which the key determines.

    Args:
        transform: transform of each item. Its random numbers depend on the seed and the key only.
        seed: seed for the random numbers.
    """

    def __init__(self, transform: Transform, seed: int) -> None:
        self.transform = transform
        self.seed = seed

    @abstractmethod
    def select(self, key: SampleKey, attempt: int) -> LazyItem:
        """Return the item of a key (attempt 0), or its replacement (attempts 1, 2, ...)."""

    def __getitem__(self, key: SampleKey) -> LoadedSample:
        failures: list[ReadFailure] = []
        for attempt in range(MAX_ATTEMPTS):
            item = self.select(key, attempt)
            # Only the CPU's generator: torch.manual_seed seeds those of all devices, which takes 0.1 ms.
            state = torch.default_generator.get_state()
            torch.default_generator.manual_seed(derive_seed(self.seed, *key))
            try:
                sample = _load(item, self.transform)
            finally:
                torch.default_generator.set_state(state)
            failures += sample.failures
            if sample.pixels is not None:
                return sample._replace(failures=tuple(failures))
        return LoadedSample(None, "", tuple(failures))


class IndexedTrainingDataset(TrainingDataset):
    """Training samples of an indexed source.

    Sample i of an epoch is item i modulo the number of items, with a different augmentation each time.

    Args:
        source: images or videos.
        transform: random transform of each item.
        seed: seed for augmentation and replacements.
    """

    def __init__(self, source: IndexedSource, transform: Transform, seed: int) -> None:
        super().__init__(transform, seed)
        self.source = source

    def select(self, key: SampleKey, attempt: int) -> LazyItem:
        """Return the item of a key, or a random replacement."""
        index = derive_seed(self.seed, *key, attempt) if attempt else key.sample_index
        return _indexed_item(self.source, index % len(self.source))


class ShardTrainingDataset(TrainingDataset):
    """Training samples of shards.

    Keys should ascend within an epoch. Any other order gives the same samples but is slow.

    Args:
        source: the shards.
        transform: random transform of each item.
        seed: seed for shuffling and augmentation.
        plan: which samples each process reads.
    """

    def __init__(self, source: Shards, transform: Transform, seed: int, plan: ShardPlan) -> None:
        super().__init__(transform, seed)
        self.source = source
        self.plan = plan
        self._epoch = -1
        self._readers: dict[tuple[int, int], LaneReader] = {}

    def __getitem__(self, key: SampleKey) -> LoadedSample:
        sample = super().__getitem__(key)
        broken_shards = [failure for reader in self._readers.values() for failure in reader.take_failures()]
        return sample._replace(failures=(*broken_shards, *sample.failures))

    def select(self, key: SampleKey, attempt: int) -> LazyItem:
        """Return the sample of a key, or another one from its lane."""
        batch, index = divmod(key.sample_index, self.plan.batch_size)
        batch, rank = divmod(batch, self.plan.world_size)
        plan = self.plan.plan_rank(key.epoch, rank)
        reader = self._lane_reader(key.epoch, rank, plan.batch_lanes[batch])
        sample = reader.get(plan.lane_batches[batch] * self.plan.batch_size + index, attempt)
        return _shard_item(self.source, sample) if sample else LazyItem(str(self.source), _raise_exhausted)

    def _lane_reader(self, epoch: int, rank: int, lane: int) -> LaneReader:
        if epoch != self._epoch:
            self._epoch, self._readers = epoch, {}
        if (rank, lane) not in self._readers:
            shards_per_rank = -(-len(self.source.urls) // self.plan.world_size)
            self._readers[rank, lane] = LaneReader(
                partial(self.source.read_shard, num_shards=shards_per_rank),
                self.plan.sizes,
                self.plan.plan_rank(epoch, rank).lanes[lane],
                buffer=max(1, self.source.buffer // self.plan.num_lanes),
                seed=derive_seed(self.seed, epoch, rank, lane),
                min_replacements=MAX_ATTEMPTS,
            )
        return self._readers[rank, lane]


class IndexedEvaluationDataset(Dataset[LoadedSample]):
    """Evaluation samples of an indexed source. Unreadable items are left out.

    Args:
        source: images or videos.
        transform: deterministic transform of each item.
    """

    def __init__(self, source: IndexedSource, transform: Transform) -> None:
        self.source = source
        self.transform = transform

    def __getitem__(self, index: int) -> LoadedSample:
        return _load(_indexed_item(self.source, index), self.transform)


class ShardEvaluationDataset(IterableDataset[LoadedSample]):
    """Yields every sample of the shards once, over all processes and their workers; see `Shards.deal`.

    Args:
        source: the shards.
        transform: deterministic transform of each item.
        rank: rank of the process.
        world_size: number of processes.
    """

    def __init__(self, source: Shards, transform: Transform, rank: int, world_size: int) -> None:
        self.source = source
        self.transform = transform
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[LoadedSample]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        readers = range(self.rank * num_workers, (self.rank + 1) * num_workers)
        parts = [self.source.deal(reader, self.world_size * num_workers) for reader in readers]
        # The loader adds up what the workers of a process report.
        num_shards = len({segment.shard for part in parts for segment in part})
        for segment in parts[worker]:
            for item in self.source.read_segment(segment, num_shards):
                if isinstance(item, ReadFailure):
                    yield LoadedSample(None, "", (item,), requested=0)
                else:
                    yield _load(_shard_item(self.source, item), self.transform)


def _indexed_item(source: IndexedSource, index: int) -> LazyItem:
    file = source.image_file(index) if isinstance(source, ImageSource) else None
    return LazyItem(source.name(index), lambda: source[index], file)


def _shard_item(source: Shards, sample: EncodedSample) -> LazyItem:
    return LazyItem(sample.name, lambda: source.decode(sample), source.image_file(sample))


def _raise_exhausted() -> NoReturn:
    raise UnreadableImageError("", "its shards contain no more samples")


def _load(item: LazyItem, transform: Transform) -> LoadedSample:
    """Read and transform an item. If it is unreadable, return the failure instead."""
    try:
        function = _prefer_uint8(transform)
        if item.file is not None and isinstance(transform, TrainingTransform) and function is not transform:
            result = transform.decode_to_uint8(item.file)
        else:
            result = function(item.load())
    except UnreadableError as error:
        return LoadedSample(None, "", (ReadFailure(item.name, error.summary),))
    return LoadedSample(*result) if isinstance(result, Clip) else LoadedSample(result, item.name)


def _prefer_uint8(transform: Transform) -> Transform:
    """Return the `to_uint8` of a transform. A subclass that only overrides `forward` is called itself."""
    classes: tuple[type, ...] = type(cast(object, transform)).__mro__
    definitions = next((vars(cls) for cls in classes if "forward" in vars(cls)), {})
    return cast(Any, transform).to_uint8 if "to_uint8" in definitions else transform
