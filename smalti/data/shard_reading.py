"""webdataset shards: tar files whose samples are read as a stream.

A training epoch of one process is dealt over `lanes`: each lane reads its own shards through its own shuffle buffer, and
batch b comes from lane b mod lanes. So the order does not depend on the number of workers, whichever worker reads a batch
needs only the lane that it comes from, and what was seen before a restart is passed over without being decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple

from smalti.data.sources import Fault
from smalti.errors import SmaltiError


class Encoded(NamedTuple):
    """A sample as it lies in its shard.

    Attributes:
        name: shard and key, "photos-000.tar/0001".
        content: the bytes of its image or video file; None: it has none.
    """

    name: str
    content: bytes | None


def expand_pattern(pattern: str) -> list[str]:
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


def read_shards(urls: Iterable[str], suffixes: Set[str], shards: int | None = None) -> Iterator[Encoded | Fault]:
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
