"""webdataset shards: tar files whose samples are read as a stream.

A training epoch of one process is dealt over `lanes`: each lane reads its own shards through its own shuffle buffer, and
batch b comes from lane b mod lanes. So the order does not depend on the number of workers, whichever worker reads a batch
needs only the lane that it comes from, and what was seen before a restart is passed over without being decoded.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, ClassVar

from torch.utils.data import IterableDataset

from smalti.data.folders import IMAGE_SUFFIXES
from smalti.data.image_decoding import UnreadableImageError, decode_image
from smalti.data.shard_reading import Encoded, expand_pattern, read_shards
from smalti.data.sources import Fault, Source, VideoSegment
from smalti.errors import SmaltiError
from smalti.seeds import derive_seed
from smalti.video import VIDEO_SUFFIXES, UnreadableVideoError


class Shards(Source, IterableDataset[Encoded | Fault]):
    """Images of webdataset tar files; of each sample, the first file with an image's suffix is taken.

    Iterating gives every sample of every shard once, in order, undecoded, and a `Fault` for each shard that breaks off.

    Args:
        pattern: where the shards are: a path with braces ("photos-{000..009}.tar") or a glob ("photos-*.tar"), a URL (http,
            https, pipe: and what else webdataset opens), which may have braces; or a list of such.
        samples: what counts as an epoch of training, over all processes; needed for training only. An epoch reads each
            shard from its start, so give about the number that there are: with much fewer, the ends are never seen.
        buffer: samples that a process holds, encoded, to shuffle among.
        lanes: shards that a process reads at a time, if it has as many. Workers share them, best a number that divides it.

    Raises:
        SmaltiError: the pattern matches nothing, a named file is not there, or a number is below 1.
    """

    suffixes: ClassVar[frozenset[str]] = IMAGE_SUFFIXES

    def __init__(
        self, pattern: str | list[str], samples: int | None = None, buffer: int = 1000, lanes: int = 4
    ) -> None:
        for name, value in {"samples": samples, "buffer": buffer, "lanes": lanes}.items():
            if value is not None and value < 1:
                raise SmaltiError(f"Shards' {name} is {value}: give at least 1.")
        self.patterns = [pattern] if isinstance(pattern, str) else list(pattern)
        self.urls = list(dict.fromkeys(url for part in self.patterns for url in expand_pattern(part)))
        if not self.urls:
            raise SmaltiError("The list of shard patterns is empty: give at least one, such as 'shards/*.tar'.")
        self.samples = samples
        self.buffer = buffer
        self.lanes = lanes

    def __iter__(self) -> Iterator[Encoded | Fault]:
        return read_shards(self.urls, self.suffixes)

    def __str__(self) -> str:
        return ", ".join(self.patterns)

    def item(self, encoded: Encoded) -> Any:
        """The image of a sample, decoded.

        Raises:
            UnreadableImageError: it is corrupt, or there is none.
        """
        if encoded.content is None:
            raise UnreadableImageError(encoded.name, "no image in the sample")
        return decode_image(encoded.content)

    def part(self, rank: int, world: int) -> Iterator[Encoded | Fault]:
        """What `rank` of `world` readers evaluates: every world-th shard; nothing where there are fewer shards."""
        return read_shards(self.urls[rank::world], self.suffixes)

    def lane(self, lane: int, *, seed: int, epoch: int, rank: int, world: int) -> Iterator[Encoded | Fault]:
        """The samples of a lane of a process in an epoch, shuffled, without end unless no shard of the process has any.

        Args:
            lane: from 0 to `lanes_of(rank, world)` - 1.
            seed: with the epoch, decides the order of the shards and of their samples.
            epoch: of training.
            rank: of the process.
            world: number of processes.
        """
        from webdataset.filters import shuffle

        all_urls = random.Random(derive_seed(seed, epoch)).sample(self.urls, len(self.urls))[rank::world]
        rng = random.Random(derive_seed(seed, epoch, rank, lane))
        lanes = self.lanes_of(rank, world)
        size = max(1, self.buffer // lanes)
        return iter(shuffle(size, initial=size, rng=rng)(self._cycle(all_urls[lane::lanes], all_urls, rng)))

    def lanes_of(self, rank: int, world: int) -> int:
        """Lanes of a process: `lanes`, or its number of shards where that is less; 0 where it has none."""
        return min(self.lanes, len(self.urls[rank::world]))

    def _cycle(self, urls: list[str], all_urls: list[str], rng: random.Random) -> Iterator[Encoded | Fault]:
        """Shards again and again, each time in another order; all of the process where those of the lane have no sample."""
        while True:
            empty = True
            for item in read_shards(urls, self.suffixes, len(all_urls)):
                empty = empty and isinstance(item, Fault)
                yield item
            if empty and len(urls) == len(all_urls):
                return
            urls = all_urls if empty else rng.sample(urls, len(urls))


class VideoShards(Shards):
    """Shards of clips: of each sample the first file with a video's suffix is taken, whole, into memory.

    The shuffle buffer holds encoded videos: make it smaller than for images.
    """

    videos = True
    suffixes = VIDEO_SUFFIXES

    def item(self, encoded: Encoded) -> VideoSegment:
        """The video of a sample, unread.

        Raises:
            UnreadableVideoError: there is none.
        """
        if encoded.content is None:
            raise UnreadableVideoError(encoded.name, "no video in the sample")
        return VideoSegment(encoded.name, encoded.content)
