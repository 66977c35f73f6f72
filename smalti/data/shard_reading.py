"""Reading webdataset shards, which are tar files, as streams of samples that are not decoded yet."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import islice
from typing import Any, NamedTuple

from smalti.data.shard_headers import find_sample
from smalti.data.shard_patterns import is_url
from smalti.data.sources import ReadFailure

RETRY_DELAYS = (1.0, 5.0)
"""Seconds to wait before a remote shard that broke off or stalls is opened again."""

READ_TIMEOUT = 60.0
"""Seconds without any data after which a remote shard counts as stalled. A slow transfer never does."""


class EncodedSample(NamedTuple):
    """A sample as stored in its shard.

    Attributes:
        name: shard and key, "photos-000.tar/0001".
        content: the bytes of its image or video file; None if it has none.
        columns: its other files, such as captions, by suffix ("txt"); empty unless the reader asked for them.
    """

    name: str
    content: bytes | None
    columns: Mapping[str, bytes] = {}


def read_shards(
    urls: Iterable[str], suffixes: Set[str], num_shards: int | None = None
) -> Iterator[EncodedSample | ReadFailure]:
    """Read the samples of shards in order.

    Args:
        urls: the shards.
        suffixes: suffixes of the files to read, with their dot, in lower case.
        num_shards: number of shards to report in failures; None for the number of `urls`.

    Yields:
        The samples of each shard; see `read_shard`.
    """
    urls = list(urls)
    for url in urls:
        yield from read_shard(url, suffixes, num_shards or len(urls))


def read_shard(
    url: str, suffixes: Set[str], num_shards: int, first: int = 0, *, with_columns: bool = False
) -> Iterator[EncodedSample | ReadFailure]:
    """Read the samples of a shard in order.

    If a remote shard breaks off, or stalls for `READ_TIMEOUT`, it is opened again and continues with the first sample that
    was not complete. After three attempts (see `RETRY_DELAYS`), it counts as damaged.

    Args:
        url: the shard.
        suffixes: suffixes of the files to read, with their dot, in lower case.
        num_shards: number of shards to report in a failure.
        first: index of the first sample to read, among those with such a file. A local tar file that is not compressed is
            read from there; any other shard is read from its start.
        with_columns: whether to keep the other files of each sample.

    Yields:
        The samples, beginning with that of index `first`, or with the start of the shard if `first` is 0. A truncated shard
        yields its complete samples, then a `ReadFailure`; a shard that cannot be opened yields a `ReadFailure` only.
    """
    delays = iter(RETRY_DELAYS if is_url(url) else ())
    offset = find_sample(url, suffixes, first) if first and not is_url(url) else None
    to_skip = first if offset is None else 0
    started = not first
    num_read = 0
    while True:
        errors: list[Exception] = []
        for sample in islice(_read_stream(url, offset or 0, suffixes, errors, with_columns), num_read, None):
            num_read += 1
            if to_skip:
                to_skip -= sample.content is not None
            elif started or sample.content is not None:
                started = True
                yield sample
        if not errors:
            return
        delay = next(delays, None)
        if delay is None:
            yield ReadFailure(url, _reason(errors[0]), num_shards)
            return
        time.sleep(delay)


def _read_stream(
    url: str, offset: int, suffixes: Set[str], errors: list[Exception], with_columns: bool
) -> Iterator[EncodedSample]:
    """Read the samples of a shard, up to its end or to the first damage. Errors are appended to `errors`.

    Args:
        url: the shard.
        offset: position of the first sample in bytes; 0 unless it is a local file.
        suffixes: see `read_shard`.
        errors: list for errors.
        with_columns: whether to keep the other files of each sample.
    """
    from webdataset.gopen import Pipe, gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    def record(error: Exception) -> bool:
        errors.append(error)
        return True  # continue: nothing but the end follows in the stream of a truncated tar

    try:
        file: Any = gopen(url)
        with file as opened:
            if offset:
                opened.seek(offset)
            stream = _MonitoredStream(_PipeReader(opened) if isinstance(opened, Pipe) else opened)
            files = tar_file_expander(iter([{"url": url, "stream": stream}]), handler=record)
            for sample in group_by_keys(files, handler=record):
                content = _select_content(sample, suffixes)
                if content is not None or not errors:  # the last sample of a truncated shard may be incomplete
                    columns = _select_columns(sample, suffixes) if with_columns else {}
                    yield EncodedSample(f"{url}/{sample['__key__']}", content, columns)
            if not errors and stream.truncated:
                errors.append(EOFError("the end of the archive is missing"))
    except (OSError, ValueError) as error:  # the shard cannot be opened, or the command of a pipe failed
        errors.append(error)


class _PipeReader:
    """Reads from the command that webdataset opens for a URL. Ends the command if it sends no data for `READ_TIMEOUT`."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._file = pipe.stream.fileno()
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def read(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end.

        Raises:
            TimeoutError: the command stalls.
            OSError: the command failed.
        """
        data = bytearray()
        while len(data) < size:
            if not self._poll.poll(1000 * READ_TIMEOUT):
                self._pipe.proc.kill()
                raise TimeoutError(f"no data for {READ_TIMEOUT:g} s")
            part = os.read(self._file, size - len(data))
            if not part:
                if not data:
                    self._pipe.wait_for_child()  # raises if the command failed
                break
            data += part
        return bytes(data)


class _MonitoredStream:
    """A stream that records its first and last bytes.

    A tar file that was truncated between two of its files reads like a complete one; only its end reveals it.
    """

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
    def truncated(self) -> bool:
        """Whether it is an uncompressed tar that does not end with the block of zeros that terminates an archive."""
        return self._head[257:] == b"ustar" and any(self._tail)


def _select_content(sample: dict[str, object], suffixes: Set[str]) -> bytes | None:
    # "jpg" before "mask.jpg": the plain suffix is the image, a longer one belongs to another part of the sample.
    for suffix, value in sorted(sample.items(), key=lambda item: item[0].count(".")):
        if isinstance(value, bytes) and "." + suffix.rpartition(".")[2] in suffixes:
            return value
    return None


def _select_columns(sample: dict[str, object], suffixes: Set[str]) -> dict[str, bytes]:
    """Return the files of a sample that are no images (for videos: no videos), by suffix."""
    files = ((suffix, value) for suffix, value in sample.items() if not suffix.startswith("__"))
    return {
        suffix: value
        for suffix, value in files
        if isinstance(value, bytes) and "." + suffix.rpartition(".")[2] not in suffixes
    }


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error.args[0] if error.args else error).partition(" @ ")[0].split()) or type(error).__name__
