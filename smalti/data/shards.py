"""Data sources that are webdataset shards: tar files whose samples are read as a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import IterableDataset

from smalti.data.path_table import digest_names
from smalti.data.shard_headers import read_sample_headers
from smalti.data.shard_patterns import expand_pattern, is_url
from smalti.data.shard_plan import Segment, deal_samples
from smalti.data.shard_reading import EncodedSample, read_shard, read_shards
from smalti.data.sources import ReadFailure, Source, VideoSegment
from smalti.distributed import compute_on_rank_0
from smalti.errors import SmaltiError
from smalti.images import IMAGE_SUFFIXES, UnreadableImageError, decode_image
from smalti.video import VIDEO_SUFFIXES, UnreadableVideoError


class Shards(Source, IterableDataset[EncodedSample | ReadFailure]):
    """Images in webdataset shards. The first file of each sample that has the suffix of an image is used.

    Iterating yields every sample of every shard once, in order and not decoded, and a `ReadFailure` for each damaged or
    missing shard.

    Args:
        pattern: Shards to read: a path with braces ("photos-{000..009}.tar"), a glob ("photos-*.tar"), or a URL that
            webdataset can open (http, https, pipe:, ...), which may have braces; or a list of them. "pipe:" runs the rest
            as a command of the shell: do not take patterns from somebody you do not trust.
        samples: Samples per training epoch over all processes. By default, all samples of the shards. Training on URLs
            requires it. A list gives the number of samples in each shard. Without a list, the samples of local shards are
            counted when training starts, which takes about 0.5 s per 10,000 samples, and URLs are assumed to contain
            `samples` in equal parts: give a list if they do not, so that each sample is used once per epoch.
        buffer: Number of samples per process that are read ahead, encoded, and shuffled.
        lanes: Number of streams in which each process reads its shards. Each stream is read by one worker: give at least as
            many as workers. A process reads at most as many URLs at once as it has.

    Raises:
        SmaltiError: the pattern matches nothing, a file does not exist, a number is less than 1, or the list of samples has
            another length than the list of shards.
    """

    suffixes: ClassVar[frozenset[str]] = IMAGE_SUFFIXES

    def __init__(
        self, pattern: str | list[str], samples: int | list[int] | None = None, buffer: int = 2000, lanes: int = 8
    ) -> None:
        total = sum(samples) if isinstance(samples, list) else samples
        for name, value in {"samples": total, "buffer": buffer, "lanes": lanes}.items():
            if value is not None and value < 1:
                raise SmaltiError(f"The argument {name} of {type(self).__name__} is {value}: give at least 1.")
        self.patterns = [pattern] if isinstance(pattern, str) else list(pattern)
        self.urls = list(dict.fromkeys(url for part in self.patterns for url in expand_pattern(part)))
        if not self.urls:
            raise SmaltiError("The list of shard patterns is empty: give at least one, such as 'shards/*.tar'.")
        if isinstance(samples, list) and (len(samples) != len(self.urls) or min(samples) < 0):
            raise SmaltiError(
                f"The argument samples of {type(self).__name__} is a list of {len(samples)} numbers for {len(self.urls)} "
                "shards: give the number of samples in each shard, or in all."
            )
        self.samples = total
        self._given_samples = samples
        self._sizes = list(samples) if isinstance(samples, list) else None
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

    def digest(self) -> str:
        """Return the SHA-256 of the shards in order; see `Source.digest`.

        A local shard is identified by its file name and its size in bytes, because its samples may not be counted yet; a
        URL by itself. The numbers of samples that the argument `samples` gives are part of it.
        """
        shards = [url if is_url(url) else f"{Path(url).name} {_size(url)}" for url in self.urls]
        return digest_names([*shards, repr(self._given_samples)])

    def sizes(self) -> list[int]:
        """Return the number of samples in each shard that contain an image (for `VideoShards`: a video).

        Counts local shards once, unless `samples` lists the numbers. Reads only the headers of the files in each shard:
        about 0.5 s per shard of 10,000 samples. URLs are assumed to have `samples` in equal parts.

        Raises:
            SmaltiError: a shard is not a local file, and `samples` is None.
        """
        if self._sizes is None and self.local:
            with ThreadPoolExecutor(8) as pool:  # hides the latency of network storage
                self._sizes = list(pool.map(self.count_shard, range(len(self.urls))))
        elif self._sizes is None and self.samples is None:
            raise SmaltiError(
                f"The samples of {self} cannot be counted, because it is a URL: set `samples` of the shards."
            )
        elif self._sizes is None:
            self._sizes = [-(-(self.samples or 0) // len(self.urls))] * len(self.urls)
        return self._sizes

    def count_shard(self, index: int) -> int:
        """Return the number of samples in one local shard that contain an image (for `VideoShards`: a video)."""
        return sum(1 for _ in read_sample_headers(self.urls[index], self.suffixes))

    def share_sizes(self) -> None:
        """Count the samples of local shards on rank 0, for all ranks. All ranks must call this in the same order."""
        if self._sizes is None and self.local:
            self._sizes = compute_on_rank_0(self.sizes)

    def count_samples(self) -> int:
        """Return the number of samples in all shards; see `sizes`."""
        return sum(self.sizes())

    def contains_samples(self) -> bool:
        """Return whether a local shard contains an image (for `VideoShards`: a video). Stops at the first one."""
        return any(next(read_sample_headers(url, self.suffixes), None) for url in self.urls)

    def decode(self, sample: EncodedSample) -> Any:
        """Decode a sample to an 8-bit RGB image.

        Raises:
            UnreadableImageError: the image is corrupt, or the sample contains none.
        """
        if sample.content is None:
            raise UnreadableImageError(sample.name, "no image in the sample")
        return decode_image(sample.content)

    def image_file(self, sample: EncodedSample) -> bytes | None:
        """Return the bytes of the image file of a sample; None in a subclass that changes what is decoded."""
        return sample.content if type(self).decode is Shards.decode else None

    def deal(self, reader: int, num_readers: int) -> list[Segment]:
        """Return what one of several readers reads, so that together they read every sample once; see `read_segment`.

        Local shards are dealt by samples, in equal numbers give or take one. URLs are dealt as a whole, because reading
        from the middle of one transfers what comes before: a reader may get nothing.

        Args:
            reader: index of the reader.
            num_readers: number of readers.
        """
        if self.local:
            return deal_samples(self.sizes(), reader, num_readers)
        return [Segment(shard, 0, 0) for shard in range(reader, len(self.urls), num_readers)]

    def read_segment(self, segment: Segment, num_shards: int) -> Iterator[EncodedSample | ReadFailure]:
        """Read a part of a shard in order: its samples, and those without an image or video that follow each.

        The last part of a local shard, and the one part of a URL, are read to the end, whatever their length.

        Args:
            segment: a part that `deal` returned.
            num_shards: number of shards to report in a failure.
        """
        last = not self.local or segment.stop >= self.sizes()[segment.shard]
        count = 0
        for item in self.read_shard(segment.shard, segment.first, num_shards):
            count += isinstance(item, EncodedSample) and item.content is not None
            if count > segment.stop - segment.first and not last:
                return
            yield item

    def read_shard(
        self, index: int, first: int = 0, num_shards: int | None = None, *, with_columns: bool = False
    ) -> Iterator[EncodedSample | ReadFailure]:
        """Read the samples of one shard in order.

        Args:
            index: index of the shard in `urls`.
            first: index of the first sample to read.
            num_shards: number of shards to report in a failure; None for that of all shards.
            with_columns: whether to keep the other files of each sample.
        """
        count = num_shards or len(self.urls)
        return read_shard(self.urls[index], self.suffixes, count, first, with_columns=with_columns)

    def num_lanes(self, world_size: int) -> int:
        """Return the number of lanes of each process: `lanes`; for URLs, at most the number of shards per process.

        Two lanes that begin in the same remote shard both transfer it from its start.
        """
        return self.lanes if self.local else min(self.lanes, max(1, len(self.urls) // world_size))


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


def _size(path: str) -> int | None:
    """Return the size of a file in bytes; None if it does not exist."""
    try:
        return os.path.getsize(path)  # noqa: PTH202
    except OSError:
        return None
