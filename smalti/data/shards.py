"""Data sources that are webdataset shards: tar files whose samples are read as a stream.

For training, each process reads its shards in parallel `lanes`. A lane reads its own shards through its own shuffle buffer,
and batch b comes from lane b mod lanes. The order of samples does not depend on the number of workers, and a worker reads
only the lane of its current batch. When a run resumes, the samples that it has already used are skipped
without being decoded.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any, ClassVar

from torch.utils.data import IterableDataset

from smalti.data.folders import IMAGE_SUFFIXES
from smalti.data.shard_headers import read_sample_names
from smalti.data.shard_patterns import expand_pattern, is_url
from smalti.data.shard_reading import EncodedSample, read_shards
from smalti.data.sources import ReadFailure, Source, VideoSegment
from smalti.errors import SmaltiError
from smalti.images import UnreadableImageError, decode_image
from smalti.seeds import derive_seed
from smalti.video import VIDEO_SUFFIXES, UnreadableVideoError


class Shards(Source, IterableDataset[EncodedSample | ReadFailure]):
    """Images in webdataset shards. The first file of each sample that has the suffix of an image is used.

    Iterating yields every sample of every shard once, in order and not decoded, and a `ReadFailure` for each damaged or
    missing shard.

    Args:
        pattern: Shards to read: a path with braces ("photos-{000..009}.tar"), a glob ("photos-*.tar"), or a URL that
            webdataset can open (http, https, pipe:, ...), which may have braces; or a list of them.
        samples: Samples per training epoch over all processes. By default, the samples of local shards are counted when
            training starts, which takes about 0.5 s per 10,000 samples. Training on URLs requires it. Each epoch reads the
            shards from their start, so set it to about the number of samples in the shards: if it is much smaller, the
            samples at the ends are never used.
        buffer: Size of the shuffle buffer of each process, in encoded samples.
        lanes: Number of shards that each process reads in parallel, limited by its number of shards. Workers share the
            lanes: a multiple of the number of workers is best.

    Raises:
        SmaltiError: the pattern matches nothing, a file does not exist, or a number is less than 1.
    """

    suffixes: ClassVar[frozenset[str]] = IMAGE_SUFFIXES

    def __init__(
        self, pattern: str | list[str], samples: int | None = None, buffer: int = 1000, lanes: int = 4
    ) -> None:
        for name, value in {"samples": samples, "buffer": buffer, "lanes": lanes}.items():
            if value is not None and value < 1:
                raise SmaltiError(f"The argument {name} of {type(self).__name__} is {value}: give at least 1.")
        self.patterns = [pattern] if isinstance(pattern, str) else list(pattern)
        self.urls = list(dict.fromkeys(url for part in self.patterns for url in expand_pattern(part)))
        if not self.urls:
            raise SmaltiError("The list of shard patterns is empty: give at least one, such as 'shards/*.tar'.")
        self.samples = samples
        self.buffer = buffer
        self.lanes = lanes

    @property
    def local(self) -> bool:
        """Whether all shards are local files, none of them a URL."""
        return not any(is_url(url) for url in self.urls)

    def __iter__(self) -> Iterator[EncodedSample | ReadFailure]:
        return read_shards(self.urls, self.suffixes)

    def __str__(self) -> str:
        return ", ".join(self.patterns[:3]) + (", ..." if len(self.patterns) > 3 else "")

    def origins(self) -> list[str]:
        """Return the path of each local shard without symbolic links, and the URL of each other shard."""
        return [url if is_url(url) else os.path.realpath(url) for url in self.urls]

    def count_samples(self) -> int:
        """Return the number of samples in the shards that contain an image (for `VideoShards`: a video).

        Reads only the headers of the files in each shard: about 0.5 s per shard of 10,000 samples.

        Raises:
            SmaltiError: a shard is not a local file.
        """
        return sum(1 for _ in self._iterate_headers())

    def contains_samples(self) -> bool:
        """Return whether a shard contains an image (for `VideoShards`: a video). Stops at the first one.

        Raises:
            SmaltiError: a shard is not a local file.
        """
        return next(self._iterate_headers(), None) is not None

    def _iterate_headers(self) -> Iterator[str]:
        if not self.local:
            raise SmaltiError(
                f"The samples of {self} cannot be counted, because it is a URL: set `samples` of the shards."
            )
        for url in self.urls:
            yield from read_sample_names(url, self.suffixes)

    def decode(self, sample: EncodedSample) -> Any:
        """Decode a sample to an 8-bit RGB image.

        Raises:
            UnreadableImageError: the image is corrupt, or the sample contains none.
        """
        if sample.content is None:
            raise UnreadableImageError(sample.name, "no image in the sample")
        return decode_image(sample.content)

    def read_partition(self, index: int, num_readers: int) -> Iterator[EncodedSample | ReadFailure]:
        """Read every num_readers-th shard, starting with shard `index`. A reader without shards gets nothing."""
        return read_shards(self.urls[index::num_readers], self.suffixes)

    def read_lane(
        self, lane: int, *, seed: int, epoch: int, rank: int, world_size: int
    ) -> Iterator[EncodedSample | ReadFailure]:
        """Read the shuffled samples of a lane in an epoch, repeatedly. Ends only if no shard of the process has samples.

        Args:
            lane: index of the lane, less than `num_lanes(rank, world_size)`.
            seed: seed for shuffling shards and samples, together with the epoch.
            epoch: training epoch, from 0.
            rank: rank of the process.
            world_size: number of processes.
        """
        from webdataset.filters import shuffle

        all_urls = random.Random(derive_seed(seed, epoch)).sample(self.urls, len(self.urls))[rank::world_size]
        rng = random.Random(derive_seed(seed, epoch, rank, lane))
        lanes = self.num_lanes(rank, world_size)
        size = max(1, self.buffer // lanes)
        return iter(shuffle(size, initial=size, rng=rng)(self._cycle(all_urls[lane::lanes], all_urls, rng)))

    def num_lanes(self, rank: int, world_size: int) -> int:
        """Return the number of lanes of a process: `lanes`, or its number of shards if that is smaller."""
        return min(self.lanes, len(self.urls[rank::world_size]))

    def _cycle(self, urls: list[str], all_urls: list[str], rng: random.Random) -> Iterator[EncodedSample | ReadFailure]:
        """Read the shards of a lane repeatedly, each time in another order.

        If they contain no sample, all shards of the process are read instead. If these contain none either, the stream
        ends.
        """
        while True:
            empty = True
            for item in read_shards(urls, self.suffixes, len(all_urls)):
                empty = empty and isinstance(item, ReadFailure)
                yield item
            if empty and len(urls) == len(all_urls):
                return
            urls = all_urls if empty else rng.sample(urls, len(urls))


class VideoShards(Shards):
    """Videos in webdataset shards. The first file of each sample that has the suffix of a video is loaded into memory.

    The shuffle buffer holds encoded videos: make it smaller than for images.
    """

    videos = True
    suffixes = VIDEO_SUFFIXES

    def decode(self, sample: EncodedSample) -> VideoSegment:
        """Return the video of a sample. Its frames are decoded later, by the transform.

        Raises:
            UnreadableVideoError: the sample contains no video.
        """
        if sample.content is None:
            raise UnreadableVideoError(sample.name, "no video in the sample")
        return VideoSegment(sample.name, sample.content)
