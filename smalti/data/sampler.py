"""The order of training samples. It is a function of seed, epoch and index, which makes exact resuming possible."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from smalti.seeds import derive_seed


class SampleKey(NamedTuple):
    """Key of a training sample. Together with the source and the seed, it determines the pixels.

    Attributes:
        epoch: training epoch, from 0.
        sample_index: index of the sample in the epoch, from 0.
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
        shuffle: whether to shuffle the samples and distribute them over the processes. If False, the indices are 0, 1, 2,
            ... in every process: shards are shuffled and distributed when they are read.
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
        order = torch.arange(len(self))
        if self._shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, epoch))
            permutation = torch.randperm(self._samples, generator=generator)
            order = permutation[self._rank : len(self) * self._world_size : self._world_size]
        return (SampleKey(epoch, int(index)) for index in order[batches * self._batch_size :])
