"""The order of training samples. It is a function of seed, epoch and index, which makes exact resuming possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from smalti.seeds import derive_seed


class SampleKey(NamedTuple):
    """Key of a training sample. Together with the source and the seed, it determines the pixels.

    Attributes:
        epoch: training epoch, from 0.
        sample_index: index of the sample in the epoch over all processes, from 0.
    """

    epoch: int
    sample_index: int


class TrainingPosition(NamedTuple):
    """How far training has progressed.

    Attributes:
        epoch: current epoch, from 0.
        batches: number of batches of this epoch that are done.
    """

    epoch: int = 0
    batches: int = 0


class TrainingSampler(Sampler[SampleKey]):
    """Sample the keys of one process, one epoch per iteration. Every process gets the same number of keys.

    Args:
        samples: samples per epoch over all processes. If `world_size` does not divide it, the remaining samples are left
            out, different ones in each epoch.
        shuffle: whether to shuffle the samples before they are distributed over the processes. If False, the batches of all
            processes are consecutive: shards are shuffled when they are read.
        rank: rank of this process.
        world_size: number of processes.
        seed: seed for shuffling.
        batch_size: samples per batch and process.

    Attributes:
        position: where the next iteration starts. The length does not depend on it.
    """

    def __init__(self, samples: int, *, shuffle: bool, rank: int, world_size: int, seed: int, batch_size: int) -> None:
        self.position = TrainingPosition()
        self._samples = samples
        self._shuffle = shuffle
        self._rank = rank
        self._world_size = world_size
        self._seed = seed
        self._batch_size = batch_size

    def __len__(self) -> int:
        return self._samples // self._world_size

    def __iter__(self) -> Iterator[SampleKey]:
        epoch, batches = self.position
        if self._shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, epoch))
            permutation = torch.randperm(self._samples, generator=generator)
            order = permutation[self._rank : len(self) * self._world_size : self._world_size]
        else:
            order = torch.arange(len(self))
            order += (order // self._batch_size * (self._world_size - 1) + self._rank) * self._batch_size
        return (SampleKey(epoch, int(index)) for index in order[batches * self._batch_size :])


class LaneBatchSampler(Sampler[list[SampleKey]]):
    """Batches of keys, arranged so that each lane of shards is read by one worker.

    A `DataLoader` gives its workers the batches in turn. Empty batches skip the workers that do not read the lane of the
    next batch. The order of the others does not depend on the number of workers.

    Args:
        sampler: keys of the samples, in batches of `batch_size` that each come from one lane.
        batch_size: samples per batch.
        get_lanes: returns the lane of each batch of an epoch.
        workers: number of worker processes; 0 for none.
    """

    def __init__(
        self, sampler: TrainingSampler, batch_size: int, get_lanes: Callable[[int], Sequence[int]], workers: int
    ) -> None:
        self._sampler = sampler
        self._batch_size = batch_size
        self._get_lanes = get_lanes
        self._workers = max(1, workers)

    def __len__(self) -> int:
        """Return the number of batches of a complete epoch, without the empty ones."""
        return len(self._sampler) // self._batch_size

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, batches = self._sampler.position
        keys = iter(self._sampler)
        next_worker = 0
        for lane in islice(self._get_lanes(epoch), batches, None):
            skipped = (lane - next_worker) % self._workers
            yield from ([] for _ in range(skipped))
            yield list(islice(keys, self._batch_size))
            next_worker += skipped + 1
