"""Webdataset shards: tar files with the arrays, the description and the columns of each row.

    __smalti__/info.json      what every shard carries; webdataset ignores it
    a/0001.ids.npy            ids (N, G), or the mean and the log-variance (N, C)
    a/0001.smalti.json        key, version, size, frames, rate, grids
    a/0001.txt                columns, unchanged

The files of a row are sorted by name, and carry no times or owners.

Shapes: N positions, G tokens per position, C channels.
"""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from smalti.tokenization.dataset_info import DatasetInfo
from smalti.tokenization.formats.base import ShardFormat, ShardReader, ShardWriter, add_suffix, damage_as_error
from smalti.tokenization.rows import Columns, Row, describe_row, is_text, parse_row

SUFFIX = ".tar"
INFO = "__smalti__/info.json"
RECORD = "smalti.json"


class WebDatasetFormat(ShardFormat):
    """One tar file per shard."""

    name = "webdataset"

    def suffixes(self, info: DatasetInfo) -> tuple[str, ...]:
        """Return the suffix of a tar file."""
        return (SUFFIX,)

    def write(self, base: Path, info: DatasetInfo) -> ShardWriter:
        """Create a tar file."""
        return _TarWriter(add_suffix(base, SUFFIX), info)

    def read(self, base: Path, info: DatasetInfo) -> ShardReader:
        """Read the headers of a tar file."""
        return _TarReader(add_suffix(base, SUFFIX), info)


class _TarWriter(ShardWriter):
    def __init__(self, file: Path, info: DatasetInfo) -> None:
        self._tar = tarfile.open(file, "w")  # noqa: SIM115 (closed by `close`)
        self._names: set[str] = set()
        self._add(INFO, json.dumps(info.to_dict()).encode())

    def add(self, row: Row) -> None:
        name = self._unique_name(row)
        files = {f"{array}.npy": _npy_bytes(values) for array, values in row.arrays.items()}
        files[RECORD] = json.dumps(describe_row(row), ensure_ascii=False).encode()
        for column, value in row.columns.items():
            files[column] = value.encode() if isinstance(value, str) else value
        for suffix in sorted(files):
            self._add(f"{name}.{suffix}", files[suffix])

    def close(self) -> None:
        self._tar.close()

    def _unique_name(self, row: Row) -> str:
        """Return the name of the files of a row without suffix. Webdataset cuts names at their first dot."""
        path = PurePosixPath(row.key.partition("@")[0])
        stem = path.stem if path.suffix else path.name
        clip = "" if "@" not in row.key else "@" + row.key.rpartition("@")[2]
        name = str(path.with_name(f"{stem}{clip}".replace(".", "_")))
        name += f"@v{row.version}" if row.version else ""
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}-{number}"
        self._names.add(unique)
        return unique

    def _add(self, name: str, content: bytes) -> None:
        header = tarfile.TarInfo(name)
        header.size = len(content)
        self._tar.addfile(header, BytesIO(content))


def _npy_bytes(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


class _Member(NamedTuple):
    """Position and length of a file in the archive, in bytes."""

    offset: int
    size: int


class _TarReader(ShardReader):
    def __init__(self, file: Path, info: DatasetInfo) -> None:
        self._file = file
        self._info = info
        self._rows: list[dict[str, _Member]] = []
        with damage_as_error(file, tarfile.TarError):
            self._stream = file.open("rb")
            self._stream.seek(-1024, 2)
            if any(self._stream.read()):  # a tar file that was cut between two files reads like a complete one
                raise EOFError("the end of the archive is missing")
            self._read_headers()

    def _read_headers(self) -> None:
        previous = None
        with tarfile.open(self._file, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - else all stay in memory
                if member.name == INFO:
                    self._check_info(_Member(member.offset_data, member.size))
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if (folder, stem) != previous:
                    self._rows.append({})
                    previous = (folder, stem)
                self._rows[-1][suffix] = _Member(member.offset_data, member.size)

    def _check_info(self, member: _Member) -> None:
        carried = DatasetInfo.from_dict(json.loads(self._read(member)), self._file)
        if (difference := self._info.find_difference(carried)) is not None:
            raise ValueError(f"its {difference} differs from that of the dataset")

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Row:
        members = self._rows[index]
        with damage_as_error(self._file):
            arrays = {
                name: np.lib.format.read_array(BytesIO(self._read(members[f"{name}.npy"])), allow_pickle=False)
                for name in self._info.arrays
            }
            columns: Columns = {}
            for column in self._info.columns:
                if column in members:
                    content = self._read(members[column])
                    columns[column] = content.decode("utf-8") if is_text(column) else content
            return parse_row(json.loads(self._read(members[RECORD])), arrays, columns)

    def _read(self, member: _Member) -> bytes:
        self._stream.seek(member.offset)
        content = self._stream.read(member.size)
        if len(content) < member.size:
            raise EOFError("the end of the archive is missing")
        return content
