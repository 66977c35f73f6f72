"""webdataset shards: tar files whose samples are read as a stream.

A training epoch of one process is dealt over `lanes`: each lane reads its own shards through its own shuffle buffer, and
batch b comes from lane b mod lanes. So the order does not depend on the number of workers, whichever worker reads a batch
needs only the lane that it comes from, and what was seen before a restart is passed over without being decoded.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch.utils.data import IterableDataset

from smalti.data.decode import UnreadableImageError, decode
from smalti.data.folders import IMAGE_SUFFIXES
from smalti.data.sampling import mix
from smalti.data.sources import Fault, Footage, Source
from smalti.errors import SmaltiError
from smalti.video import VIDEO_SUFFIXES, UnreadableVideoError


class Encoded(NamedTuple):
    """A sample as it lies in its shard.

    Attributes:
        name: shard and key, "photos-000.tar/0001".
        content: the bytes of its image or video file; None: it has none.
    """

    name: str
    content: bytes | None


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
        self.urls = list(dict.fromkeys(url for part in self.patterns for url in expand(part)))
        if not self.urls:
            raise SmaltiError("The list of shard patterns is empty: give at least one, such as 'shards/*.tar'.")
        self.samples = samples
        self.buffer = buffer
        self.lanes = lanes

    def __iter__(self) -> Iterator[Encoded | Fault]:
        return read(self.urls, self.suffixes)

    def __str__(self) -> str:
        return ", ".join(self.patterns)

    def item(self, encoded: Encoded) -> Any:
        """The image of a sample, decoded.

        Raises:
            UnreadableImageError: it is corrupt, or there is none.
        """
        if encoded.content is None:
            raise UnreadableImageError(encoded.name, "no image in the sample")
        return decode(encoded.content)

    def part(self, rank: int, world: int) -> Iterator[Encoded | Fault]:
        """What `rank` of `world` readers evaluates: every world-th shard; nothing where there are fewer shards."""
        return read(self.urls[rank::world], self.suffixes)

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

        all_urls = random.Random(mix(seed, epoch)).sample(self.urls, len(self.urls))[rank::world]
        rng = random.Random(mix(seed, epoch, rank, lane))
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
            for item in read(urls, self.suffixes, len(all_urls)):
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

    def item(self, encoded: Encoded) -> Footage:
        """The video of a sample, unread.

        Raises:
            UnreadableVideoError: there is none.
        """
        if encoded.content is None:
            raise UnreadableVideoError(encoded.name, "no video in the sample")
        return Footage(encoded.name, encoded.content)


class Cursor:
    """A place in a lane that moves forward only and can look ahead.

    Args:
        items: what `Shards.lane` gave.
    """

    def __init__(self, items: Iterable[Encoded | Fault]) -> None:
        self._items = iter(items)
        self._ahead: deque[Encoded] = deque()
        self._faults: list[Fault] = []
        self.position = 0

    def seek(self, position: int) -> None:
        """Go to a sample, counted from 0, at or after the present one; nothing is decoded on the way."""
        while self.position < position and self.peek(0) is not None:
            self._ahead.popleft()
            self.position += 1

    def peek(self, ahead: int) -> Encoded | None:
        """The sample so many after the present one, or None where the lane has ended."""
        while len(self._ahead) <= ahead:
            item = next(self._items, None)
            if item is None:
                return None
            if isinstance(item, Fault):
                self._faults.append(item)
            else:
                self._ahead.append(item)
        return self._ahead[ahead]

    def take_faults(self) -> list[Fault]:
        """The shards that broke off since this was asked last."""
        faults, self._faults = self._faults, []
        return faults


def expand(pattern: str) -> list[str]:
    """The shards of a pattern: braces first, then globs of local paths, each sorted.

    Raises:
        SmaltiError: a glob matches nothing, or a local file is not there.
    """
    from webdataset.shardlists import expand_urls

    try:
        parts = expand_urls(pattern)
    except ValueError:
        raise SmaltiError(f"The braces of the shard pattern '{pattern}' do not match: write {{000..009}}.") from None
    urls: list[str] = []
    for part in parts:
        if _is_url(part):
            urls.append(part)
            continue
        path = str(Path(part).expanduser())
        found = [path] if Path(path).is_file() else _glob(path)
        if not found:
            raise SmaltiError(f"No shard matches '{part}'{_within(part, pattern)}: check the path.")
        urls += found
    return urls


def read(urls: Iterable[str], suffixes: Set[str], shards: int | None = None) -> Iterator[Encoded | Fault]:
    """The samples of shards, in order; a shard that breaks off gives a `Fault` after its readable samples.

    Args:
        urls: the shards.
        suffixes: of the files that are taken.
        shards: of how many a broken one is one; the number of `urls` if None.
    """
    urls = list(urls)
    for url in urls:
        errors: list[Exception] = []
        yield from _read_one(url, suffixes, errors)
        if errors:
            yield Fault(url, _reason(errors[0]), shards or len(urls))


def _read_one(url: str, suffixes: Set[str], errors: list[Exception]) -> Iterator[Encoded]:
    """The samples of a shard up to where it breaks off; what it breaks off with goes into `errors`."""
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    def keep(error: Exception) -> bool:
        errors.append(error)
        return True  # go on: what follows in the stream of a truncated tar is its end

    try:
        with gopen(url) as opened:
            stream = _Watched(opened)
            files = tar_file_expander(iter([{"url": url, "stream": stream}]), handler=keep)
            for sample in group_by_keys(files, handler=keep):
                content = _content_of(sample, suffixes)
                if content is not None or not errors:  # the sample at the break may be half there
                    yield Encoded(f"{url}/{sample['__key__']}", content)
            if not errors and stream.cut:
                errors.append(EOFError("the archive has no end"))
    except OSError as error:  # it cannot be opened, or the program of a pipe failed
        errors.append(error)


class _Watched:
    """A stream that remembers how it began and ended: a tar that was cut off between two files reads like a whole one."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._head = b""
        self._tail = b""

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._head = self._head or data[:262]
        self._tail = (self._tail + data[-512:])[-512:]
        return data

    @property
    def cut(self) -> bool:
        """It is an uncompressed tar, and what was read of it does not end with the block of zeros that ends an archive."""
        return self._head[257:] == b"ustar" and any(self._tail)


def _content_of(sample: dict[str, object], suffixes: Set[str]) -> bytes | None:
    # "jpg" before "mask.jpg": the plain suffix is the image, a longer one belongs to something else of the sample.
    for suffix, value in sorted(sample.items(), key=lambda item: item[0].count(".")):
        if isinstance(value, bytes) and "." + suffix.rpartition(".")[2] in suffixes:
            return value
    return None


def _glob(pattern: str) -> list[str]:
    path = Path(pattern)
    relative = path.relative_to(path.anchor) if path.is_absolute() else path
    return sorted(str(found) for found in Path(path.anchor).glob(str(relative)) if found.is_file())


def _is_url(text: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+:", text) is not None


def _within(part: str, pattern: str) -> str:
    return "" if part == pattern else f" of the pattern '{pattern}'"


def _reason(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).partition(" @ ")[0].split()) or type(error).__name__
