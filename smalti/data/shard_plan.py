"""Which samples of which shards a process reads in an epoch of training, and in which order; and in evaluation.

    shards in random order, one pass after another, without end:   | 003.tar | 000.tar | 002.tar | 001.tar | 002.tar | ...
    samples of an epoch over all processes:                        [          epoch 0              |          epoch 1  ...
    each process reads a part of the same length:                  [    rank 0     |    rank 1     |
    in lanes, each read by one worker:                             [lane 0 |lane 1 |lane 0 |lane 1 |

The plan is computed from the number of samples in each shard. Every sample is used exactly once for any number of
processes, workers and lanes, and a run resumes at the right shard without reading what comes before.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch

from smalti.seeds import derive_seed


class Segment(NamedTuple):
    """Consecutive samples of a shard.

    Attributes:
        shard: index of the shard.
        first: index of the first sample in the shard.
        stop: index after the last sample.
    """

    shard: int
    first: int
    stop: int


def deal_samples(sizes: Sequence[int], reader: int, num_readers: int) -> list[Segment]:
    """Return what one of several readers reads of shards, so that together they read every sample once.

    Each reader gets consecutive samples, in equal numbers give or take one. A shard without samples is missing or damaged:
    one reader gets it as an empty segment, to report it.

    Args:
        sizes: number of samples in each shard.
        reader: index of the reader.
        num_readers: number of readers.
    """
    total = sum(sizes)
    begin, end = (total * index // num_readers for index in (reader, reader + 1))
    empty = [Segment(shard, 0, 0) for shard, size in enumerate(sizes) if not size][reader::num_readers]
    starts = accumulate(sizes, initial=0)
    parts = (
        Segment(shard, max(begin - start, 0), min(end - start, size))
        for shard, (start, size) in enumerate(zip(starts, sizes, strict=False))
    )
    return empty + [part for part in parts if part.first < part.stop]


class RankPlan(NamedTuple):
    """What a process reads in an epoch.

    Attributes:
        lanes: the segments of each lane, in order.
        batch_lanes: the lane of each batch.
        lane_batches: how many batches of its lane come before each batch.
    """

    lanes: list[list[Segment]]
    batch_lanes: list[int]
    lane_batches: list[int]


class _Pass(NamedTuple):
    """One pass over all shards: their order, and where each starts in the pass; the last start is the end of the pass."""

    order: list[int]
    starts: list[int]


class ShardPlan:
    """The order of the samples of shards in training. A function of its arguments, the epoch and the rank.

    Epoch e uses the samples e * `samples`, ..., (e + 1) * `samples` - 1 of an endless sequence of passes over the shards,
    each in another order. The samples that do not fill a batch on every process are left out.

    Each process reads its part of the epoch in several lanes. A batch comes from one lane; the batches of all lanes
    alternate. Lanes begin at the start of a shard, give or take a batch, where the shards are small enough. A shard is
    opened once per pass, and once more for each boundary between lanes within it.

    Args:
        sizes: number of samples in each shard, with a sum of at least 1.
        samples: samples per epoch over all processes.
        batch_size: samples per batch and process.
        lanes: lanes per process.
        world_size: number of processes.
        seed: seed for the order of the shards.

    Attributes:
        batches: batches per epoch of each process.
    """

    def __init__(
        self, sizes: Sequence[int], *, samples: int, batch_size: int, lanes: int, world_size: int, seed: int
    ) -> None:
        self.sizes = list(sizes)
        self.samples = samples
        self.batch_size = batch_size
        self.num_lanes = lanes
        self.world_size = world_size
        self.seed = seed
        self.batches = samples // world_size // batch_size
        self._samples_per_pass = sum(self.sizes)

    def plan_rank(self, epoch: int, rank: int) -> RankPlan:
        """Return what process `rank` reads in an epoch, counted from 0."""
        return _plan_rank(self, epoch, rank)

    def _cut(self, epoch: int, rank: int) -> list[int]:
        """Return where the lanes of a process start in the endless sequence, and where the last one ends."""
        begin, end = (epoch * self.samples + self.samples * r // self.world_size for r in (rank, rank + 1))
        length = self.batches * self.batch_size
        begin += random.Random(derive_seed(self.seed, epoch, rank)).randint(0, end - begin - length)
        cuts = [begin]
        for lane in range(1, self.num_lanes):
            target = begin + length * lane // self.num_lanes
            boundary = self._nearest_boundary(target)
            if 2 * abs(boundary - target) * self.num_lanes <= length:
                target = boundary
            batches = -(-(target - begin) // self.batch_size)  # rounded up
            cuts.append(min(max(begin + batches * self.batch_size, cuts[-1]), begin + length))
        return [*cuts, begin + length]

    def _nearest_boundary(self, position: int) -> int:
        """Return where a shard starts in the endless sequence, nearest to a position."""
        number, offset = divmod(position, self._samples_per_pass)
        starts = self._pass(number).starts
        after = bisect_right(starts, offset)
        nearest = min(starts[after - 1 : after + 1], key=lambda start: abs(start - offset))
        return number * self._samples_per_pass + nearest

    def _pass(self, number: int) -> _Pass:
        return _draw_pass(self, number)

    def _segments(self, begin: int, end: int) -> Iterator[Segment]:
        """Cut a part of the endless sequence at the boundaries of the shards."""
        while begin < end:
            number, offset = divmod(begin, self._samples_per_pass)
            order, starts = self._pass(number)
            index = bisect_right(starts, offset) - 1
            shard, first = order[index], offset - starts[index]
            stop = min(self.sizes[shard], first + end - begin)
            yield Segment(shard, first, stop)
            begin += stop - first


@lru_cache(maxsize=4)
def _draw_pass(plan: ShardPlan, number: int) -> _Pass:
    order = list(range(len(plan.sizes)))
    random.Random(derive_seed(plan.seed, number)).shuffle(order)
    return _Pass(order, [0, *accumulate(plan.sizes[shard] for shard in order)])


@lru_cache(maxsize=4)
def _plan_rank(plan: ShardPlan, epoch: int, rank: int) -> RankPlan:
    cuts = plan._cut(epoch, rank)
    lanes = [list(plan._segments(begin, end)) for begin, end in pairwise(cuts)]
    # A shard without samples is missing or damaged: the process opens it at the start of its first lane to report it.
    empty = [shard for shard, size in enumerate(plan.sizes) if not size][rank :: plan.world_size]
    first = next(lane for lane in lanes if lane)
    first[:0] = [Segment(shard, 0, 0) for shard in empty]
    counts = [(end - begin) // plan.batch_size for begin, end in pairwise(cuts)]
    lane_of = torch.repeat_interleave(torch.tensor(counts))
    number = torch.cat([torch.arange(count) for count in counts])
    # Lane l takes part in proportion to its length. Lanes of one length take turns, because the sort is stable.
    order = ((number + 0.5) / torch.tensor(counts, dtype=torch.float64)[lane_of]).argsort(stable=True)
    return RankPlan(lanes, lane_of[order].tolist(), number[order].tolist())
