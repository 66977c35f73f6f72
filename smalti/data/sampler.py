"""Which sample comes when: a pure function of seed, epoch and sample, so that a killed run continues where it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from smalti.seeds import derive_seed


class Key(NamedTuple):
    """A training sample before it is read: all that its pixels depend on, besides the data and the seed."""

    epoch: int
    sample: int


class Position(NamedTuple):
    """Where training stands: an epoch, and how many batches of it are done."""

    epoch: int = 0
    batches: int = 0


class TrainingSampler(Sampler[Key]):
    """The keys of one process, an epoch at a time; every process gets the same number.

    Args:
        samples: of an epoch over all processes; what does not divide by `world` is left out, other samples each epoch.
        shuffle: draw them in a random order, and deal them out in turn; else the keys are 0, 1, 2, ... on every process,
            for streams, which shuffle and divide their shards themselves.
        rank: of this process.
        world: number of processes.
        seed: of the order.
        batch_size: of one process.

    Attributes:
        position: where the next iteration starts; the length does not change with it.
    """

    def __init__(self, samples: int, *, shuffle: bool, rank: int, world: int, seed: int, batch_size: int) -> None:
        self.position = Position()
        self._samples = samples
        self._shuffle = shuffle
        self._rank = rank
        self._world = world
        self._seed = seed
        self._batch_size = batch_size

    def __len__(self) -> int:
        return self._samples // self._world

    def __iter__(self) -> Iterator[Key]:
        epoch, batches = self.position
        order = torch.arange(len(self))
        if self._shuffle:
            everything = torch.randperm(self._samples, generator=torch.Generator().manual_seed(derive_seed(self._seed, epoch)))
            order = everything[self._rank : len(self) * self._world : self._world]
        return (Key(epoch, int(sample)) for sample in order[batches * self._batch_size :])
