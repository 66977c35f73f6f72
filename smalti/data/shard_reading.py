"""Reading webdataset shards, which are tar files, as streams of samples that are not decoded yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import Any, NamedTuple

from smalti.data.sources import ReadFailure


class EncodedSample(NamedTuple):
    """A sample as stored in its shard.

    Attributes:
        name: shard and key, "photos-000.tar/0001".
        content: the bytes of its image or video file; None if it has none.
    """

    name: str
    content: bytes | None


def read_shards(
    urls: Iterable[str], suffixes: Set[str], num_shards: int | None = None
) -> Iterator[EncodedSample | ReadFailure]:
    """Read the samples of shards in order.

    Args:
        urls: the shards.
        suffixes: suffixes of the files to read, with their dot, in lower case.
        num_shards: number of shards to report in failures; None for the number of `urls`.

    Yields:
        The samples of each shard. A truncated shard yields its complete samples, then a `ReadFailure`; a shard that cannot
        be opened yields a `ReadFailure` only.
    """
    urls = list(urls)
    for url in urls:
        errors: list[Exception] = []
        yield from _read_shard(url, suffixes, errors)
        if errors:
            yield ReadFailure(url, _reason(errors[0]), num_shards or len(urls))


def _read_shard(url: str, suffixes: Set[str], errors: list[Exception]) -> Iterator[EncodedSample]:
    """Read the samples of a shard, up to its end or to the first damage. Errors are appended to `errors`."""
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    def record(error: Exception) -> bool:
        errors.append(error)
        return True  # continue: nothing but the end follows in the stream of a truncated tar

    try:
        with gopen(url) as opened:
            stream = _MonitoredStream(opened)
            files = tar_file_expander(iter([{"url": url, "stream": stream}]), handler=record)
            for sample in group_by_keys(files, handler=record):
                content = _select_content(sample, suffixes)
                if content is not None or not errors:  # the last sample of a truncated shard may be incomplete
                    yield EncodedSample(f"{url}/{sample['__key__']}", content)
            if not errors and stream.truncated:
                errors.append(EOFError("the end of the archive is missing"))
    except OSError as error:  # the shard cannot be opened, or the command of a pipe failed
        errors.append(error)


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


def _reason(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).partition(" @ ")[0].split()) or type(error).__name__
