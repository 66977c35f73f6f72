"""NumPy arrays: one `.npy` file per array with all rows of a shard, which have one shape, and their keys as JSON lines.

    tokens-000000.ids.npy   (rows, N, G), or (rows, bytes) uint8 if packed
    tokens-000000.jsonl     key, version, size, frames, rate, grids and columns of each row

Shapes: N positions, G tokens per position.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from smalti.errors import SmaltiError
from smalti.tokenization.dataset_info import DatasetInfo
from smalti.tokenization.formats import row_lines
from smalti.tokenization.formats.base import ShardFormat, ShardReader, ShardWriter, add_suffix, damage_as_error
from smalti.tokenization.rows import Row, row_from_json, row_to_json


class NpyFormat(ShardFormat):
    """One array per shard. All rows need the same shape."""

    name = "npy"

    def suffixes(self, info: DatasetInfo) -> tuple[str, ...]:
        """Return one suffix per array, and that of the lines."""
        return (*(f".{array}.npy" for array in info.arrays), row_lines.SUFFIX)

    def write(self, base: Path, info: DatasetInfo) -> ShardWriter:
        """Create the files of a shard."""
        return _NpyWriter(base, info)

    def read(self, base: Path, info: DatasetInfo) -> ShardReader:
        """Map the arrays of a shard into memory, and read its lines."""
        return _NpyReader(base, info)


class _ArrayFile:
    """A `.npy` file to which rows are appended.

    Args:
        file: the file to write.
        dtype: type of the rows.
    """

    def __init__(self, file: Path, dtype: np.dtype) -> None:
        self._file = file
        self._dtype = dtype
        self._rows = 0
        self._shape: tuple[int, ...] | None = None
        self._stream: BinaryIO = file.open("wb")
        self._stream.write(self._header())

    def append(self, array: np.ndarray, key: str) -> None:
        if self._shape is None:
            self._shape = array.shape
            self._stream.seek(0)
            self._stream.write(self._header())
        elif array.shape != self._shape:
            raise SmaltiError(
                f"The sample '{key}' gives an array of shape {array.shape}, but earlier ones {self._shape}, and npy holds "
                "one shape: choose a --protocol with a fixed size, such as square256, or another --format."
            )
        self._rows += 1
        self._stream.write(np.ascontiguousarray(array, self._dtype).data)

    def close(self) -> None:
        self._stream.seek(0)
        self._stream.write(self._header())
        self._stream.close()

    def _header(self) -> bytes:
        """Return the header. NumPy leaves room for the number of rows to grow: its length depends on the shape only."""
        buffer = BytesIO()
        shape = (self._rows, *(self._shape or ()))
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, header)
        return buffer.getvalue()


class _NpyWriter(ShardWriter):
    def __init__(self, base: Path, info: DatasetInfo) -> None:
        self._arrays = {
            name: _ArrayFile(add_suffix(base, f".{name}.npy"), info.array_type(name)) for name in info.arrays
        }
        self._lines = add_suffix(base, row_lines.SUFFIX).open("w", encoding="utf-8", newline="\n")

    def add(self, row: Row) -> None:
        for name, file in self._arrays.items():
            file.append(row.arrays[name], row.key)
        self._lines.write(row_to_json(row) + "\n")

    def close(self) -> None:
        for file in self._arrays.values():
            file.close()
        self._lines.close()


class _NpyReader(ShardReader):
    def __init__(self, base: Path, info: DatasetInfo) -> None:
        self._base = base
        self._arrays: dict[str, np.ndarray] = {}
        for name in info.arrays:
            file = add_suffix(base, f".{name}.npy")
            with damage_as_error(file):
                self._arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
        lines = add_suffix(base, row_lines.SUFFIX)
        with damage_as_error(lines):
            self._lines = row_lines.LineReader(lines)
            counts = {len(self._lines), *map(len, self._arrays.values())}
            if len(counts) > 1:
                raise ValueError(f"it and the arrays next to it have {sorted(counts)} rows")

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, index: int) -> Row:
        with damage_as_error(add_suffix(self._base, row_lines.SUFFIX)):
            return row_from_json(self._lines[index], {name: array[index] for name, array in self._arrays.items()})
