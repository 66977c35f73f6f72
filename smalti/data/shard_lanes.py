"""Reading the shuffled samples of a lane of shards."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Protocol

from smalti.data.shard_plan import Segment
from smalti.data.shard_reading import EncodedSample
from smalti.data.sources import ReadFailure
from smalti.seeds import derive_seed


class ReadShard(Protocol):
    """Function that reads a shard, beginning with sample `first` of those that have content; see `read_shard`."""

    def __call__(self, index: int, first: int = 0) -> Iterator[EncodedSample | ReadFailure]: ...  # noqa: D102


class LaneReader:
    """Reads a lane in blocks of consecutive samples, and shuffles each block.

    A sample is a function of its position only. Ascending positions read each segment once; any other order gives the same
    samples but is slow. If a sample is missing because its shard is damaged, the next one in its block takes its place.

    Args:
        read_shard: opens a shard.
        sizes: number of samples in each shard.
        segments: what the lane contains.
        buffer: samples per block. They are in memory, not decoded.
        seed: seed for shuffling.
        min_replacements: number of samples to read from other shards if a block contains too few that are readable.
    """

    def __init__(
        self,
        read_shard: ReadShard,
        sizes: Sequence[int],
        segments: list[Segment],
        *,
        buffer: int,
        seed: int,
        min_replacements: int,
    ) -> None:
        self._read_shard = read_shard
        self._sizes = sizes
        self._segments = segments
        self._buffer = buffer
        self._seed = seed
        self._min_replacements = min_replacements
        # The first block has a random length: else, the same samples of a shard would share a block in every epoch.
        self._phase = derive_seed(seed) % buffer
        self._length = sum(segment.stop - segment.first for segment in segments)
        self._items: Iterator[EncodedSample | None] = iter(())
        self._position = -1
        self._block_index = -1
        self._block: list[EncodedSample | None] = []
        self._failures: list[ReadFailure] = []

    def get(self, position: int, attempt: int = 0) -> EncodedSample | None:
        """Return the sample at a position, or its replacement.

        Args:
            position: position in the lane, from 0.
            attempt: 0 for the sample itself; 1, 2, ... for other samples instead.

        Returns:
            None if no shard contains a sample.
        """
        block_index = (position + self._phase) // self._buffer
        begin = max(0, block_index * self._buffer - self._phase)
        if block_index != self._block_index:
            self._load_block(block_index, begin)
        index = position - begin
        readable = [sample for sample in self._block[index:] + self._block[:index] if sample]
        if attempt < len(readable):
            return readable[attempt]
        others = self._other_samples
        return others[(index + attempt - len(readable)) % len(others)] if others else None

    def take_failures(self) -> list[ReadFailure]:
        """Return the damaged or missing shards that were found since the last call."""
        failures, self._failures = self._failures, []
        return failures

    def _load_block(self, index: int, begin: int) -> None:
        self._block = []  # frees the memory before the next block is read
        if begin != self._position:
            self._items = self._read(begin)
        end = min((index + 1) * self._buffer - self._phase, self._length)
        block = list(islice(self._items, end - begin))
        random.Random(derive_seed(self._seed, index)).shuffle(block)
        self._block, self._block_index, self._position = block, index, end

    def _read(self, position: int) -> Iterator[EncodedSample | None]:
        """Yield the samples from a position on, None for each that is missing."""
        for shard, first, stop in self._segments:
            if stop - first < position or 0 < stop - first == position:
                position -= stop - first
                continue
            samples = self._samples(shard, first + position)
            for index in range(first + position, stop):
                sample = next(samples, None)
                if index == self._sizes[shard] - 1:
                    next(samples, None)  # finds damage at the end of the shard
                yield sample
            if first == stop:
                next(samples, None)
            position = 0

    def _samples(self, shard: int, first: int = 0) -> Iterator[EncodedSample]:
        """Read the samples of a shard that have content, and collect its failures."""
        for item in self._read_shard(shard, first):
            if isinstance(item, ReadFailure):
                self._failures.append(item)
            elif item.content is not None:
                yield item

    @cached_property
    def _other_samples(self) -> list[EncodedSample]:
        """The first samples of the shards that follow the first one of the lane."""
        count = max(self._min_replacements, self._buffer)
        samples: list[EncodedSample] = []
        for offset in range(len(self._sizes)):
            shard = (self._segments[0].shard + 1 + offset) % len(self._sizes)
            samples += islice(self._samples(shard), count - len(samples))
            if len(samples) == count:
                break
        return samples
