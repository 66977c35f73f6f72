"""Reading the headers of webdataset shards, without their images or videos."""

from __future__ import annotations

import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator, Set
from itertools import islice
from typing import NamedTuple

_METADATA = re.compile(r"__[^/]*__($|/)")
"""Names of files in a shard that belong to no sample."""


class SampleHeader(NamedTuple):
    """A sample in a shard.

    Attributes:
        name: its key.
        offset: position of its first byte in the archive; after decompression, if it is compressed.
    """

    name: str
    offset: int


def read_sample_headers(path: str, suffixes: Set[str], mode: str = "r:*") -> Iterator[SampleHeader]:
    """Yield the samples in a local shard that contain a file with one of these suffixes.

    Files are grouped to samples as webdataset does: consecutive files with the same path up to the first dot of the file
    name. Seeks from header to header; only compressed shards are read completely. A damaged shard ends at the damage: the
    loader reports it.

    Args:
        path: path of the tar file.
        suffixes: suffixes with their dot, in lower case; files are matched case-insensitively.
        mode: mode of `tarfile.open`. With "r:", a compressed shard has no samples.
    """
    from webdataset.tariterators import base_plus_ext

    previous, offset, matched = None, 0, False
    try:
        with tarfile.open(path, mode) as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
            while (file := tar.next()) is not None:
                tar.members.clear()  # else they would all stay in memory
                name, extension = base_plus_ext(file.name)
                if not file.isreg() or not name or not extension or _METADATA.match(file.name):
                    continue
                if name != previous:
                    previous, offset, matched = name, file.offset, False
                if not matched and "." + extension.lower().rpartition(".")[2] in suffixes:
                    matched = True
                    yield SampleHeader(name, offset)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError):
        return


def find_sample(path: str, suffixes: Set[str], index: int) -> int | None:
    """Return the position of a sample in the file of a local shard, in bytes.

    Args:
        path: path of the tar file.
        suffixes: suffixes of the samples to count; see `read_sample_headers`.
        index: index of the sample among them, from 0.

    Returns:
        None if the shard is compressed, or has no such sample.
    """
    header = next(islice(read_sample_headers(path, suffixes, "r:"), index, None), None)
    return None if header is None else header.offset
