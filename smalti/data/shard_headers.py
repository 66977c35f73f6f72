"""Reading the headers of webdataset shards, without their images or videos."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Set

_METADATA = re.compile(r"__[^/]*__($|/)")
"""Names of files in a shard that belong to no sample."""


def read_sample_names(path: str, suffixes: Set[str]) -> Iterator[str]:
    """Yield the names of the samples in a local shard that contain a file with one of these suffixes.

    Files are grouped to samples as webdataset does: consecutive files with the same path up to the first dot of the file
    name. Seeks from header to header; only compressed shards are read completely. A damaged shard ends at the damage: the
    loader reports it.

    Args:
        path: path of the tar file.
        suffixes: suffixes with their dot, in lower case; files are matched case-insensitively.
    """
    from webdataset.tariterators import base_plus_ext

    previous = matched = None
    try:
        with tarfile.open(path) as tar:
            while (file := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else they would all stay in memory
                name, extension = base_plus_ext(file.name)
                if not file.isreg() or not name or not extension or _METADATA.match(file.name):
                    continue
                if name != previous:
                    previous, matched = name, False
                if not matched and "." + extension.lower().rpartition(".")[2] in suffixes:
                    matched = True
                    yield name
    except (tarfile.TarError, OSError, EOFError):
        return
