r"""Megatron's indexed datasets: a `.bin` file with the ids of all sequences, and an `.idx` file that says where each is.

    .bin    ids only, in C order, little endian
    .idx    0   9 bytes "MMIDIDX\0\0"       9   uint64 version 1         17  uint8 code of the type
            18  uint64 sequences S          26  uint64 documents + 1     34  S x int32 lengths in ids
            then S x int64 positions in bytes, (documents + 1) x int64 indices of sequences, and S x int8 modes, if any

Each row is a document of one sequence. The code of a position is flattened: its G tokens follow each other. The rows
without their ids are lines of JSON next to them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from smalti.errors import SmaltiError
from smalti.tokenization.dataset_info import DatasetInfo
from smalti.tokenization.formats import row_lines
from smalti.tokenization.formats.base import ShardFormat, ShardReader, ShardWriter, add_suffix, damage_as_error
from smalti.tokenization.rows import Row, row_from_json, row_to_json

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPE_CODES = {
    "uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float64": 6, "float32": 7, "uint16": 8,
}  # fmt: skip
_HEADER = struct.Struct("<9sQBQQ")
MAX_UINT16_VOCABULARY = 65_500
"""Megatron's scripts use uint16 for vocabularies below this size."""


def sequence_type(vocabulary_size: int) -> str:
    """Return the type of ids that Megatron's own scripts choose; int64 if int32 does not suffice.

    >>> sequence_type(65_499), sequence_type(65_500), sequence_type(2**31 + 1)
    ('uint16', 'int32', 'int64')

    Args:
        vocabulary_size: number of ids of the whole vocabulary.
    """
    if vocabulary_size < MAX_UINT16_VOCABULARY:
        return "uint16"
    return "int32" if vocabulary_size <= 2**31 else "int64"


class IndexedDatasetWriter:
    """Writes an indexed dataset.

    Args:
        base: path of the two files without their suffixes.
        dtype: type of the ids, one of `DTYPE_CODES`.
    """

    def __init__(self, base: Path, dtype: str) -> None:
        self._base = base
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._code = DTYPE_CODES[dtype]
        self._lengths: list[int] = []
        self._documents = [0]
        self._modes: list[int] = []
        self._stream = add_suffix(base, ".bin").open("wb")

    def add_document(self, sequences: Sequence[np.ndarray | Sequence[int]], modes: Sequence[int] | None = None) -> None:
        """Append a document.

        Args:
            sequences: ids of each sequence of the document.
            modes: a number per sequence that distinguishes modalities, for all documents of a dataset or for none.

        Raises:
            SmaltiError: an id is outside of the range of the type, which NumPy would wrap.
        """
        limits = np.iinfo(self._dtype)
        for sequence in sequences:
            ids = np.asarray(sequence)
            if ids.size and (ids.min() < limits.min or ids.max() > limits.max):
                raise SmaltiError(
                    f"An id of {add_suffix(self._base, '.bin')} is {ids.max() if ids.max() > limits.max else ids.min()}, "
                    f"outside of the range of {self._dtype.name}: choose a larger type."
                )
            self._stream.write(ids.astype(self._dtype).tobytes())
            self._lengths.append(ids.size)
        self._documents.append(len(self._lengths))
        self._modes += modes or []

    def close(self) -> None:
        """Complete the files."""
        self._stream.close()
        lengths = np.array(self._lengths, "<i4")
        positions = np.zeros(len(lengths), "<i8")
        np.cumsum(lengths[:-1].astype("<i8") * self._dtype.itemsize, out=positions[1:])
        with add_suffix(self._base, ".idx").open("wb") as index:
            index.write(_HEADER.pack(MAGIC, VERSION, self._code, len(lengths), len(self._documents)))
            index.write(lengths.tobytes() + positions.tobytes() + np.array(self._documents, "<i8").tobytes())
            index.write(np.array(self._modes, "i1").tobytes())


class IndexedDatasetReader:
    """Reads an indexed dataset. The ids are mapped into memory.

    Args:
        base: path of the two files without their suffixes.

    Attributes:
        documents: (documents + 1,) index of the first sequence of each document, and their number.
        modes: (sequences,) mode of each sequence; None if the file has none.

    Raises:
        ValueError: the files are damaged, or no indexed dataset.
        OSError: the files cannot be read.
    """

    def __init__(self, base: Path) -> None:
        content = add_suffix(base, ".idx").read_bytes()
        if len(content) < _HEADER.size or not content.startswith(MAGIC):
            raise ValueError("it is no index of Megatron")
        _, version, code, sequences, documents = _HEADER.unpack_from(content)
        names = {value: name for name, value in DTYPE_CODES.items()}
        if version != VERSION or code not in names:
            raise ValueError(f"version {version} and type {code} are unknown")
        size = _HEADER.size + 12 * sequences + 8 * documents
        if len(content) not in (size, size + sequences):
            raise ValueError(f"it has {len(content)} bytes instead of {size}")
        self._lengths = np.frombuffer(content, "<i4", sequences, _HEADER.size)
        self._positions = np.frombuffer(content, "<i8", sequences, _HEADER.size + 4 * sequences)
        self.documents = np.frombuffer(content, "<i8", documents, _HEADER.size + 12 * sequences)
        self.modes = np.frombuffer(content, "i1", sequences, size) if len(content) > size else None
        dtype = np.dtype(names[code]).newbyteorder("<")
        file = add_suffix(base, ".bin")
        total = int(self._lengths.sum(dtype=np.int64))
        if file.stat().st_size != total * dtype.itemsize:
            raise ValueError(f"{file.name} has {file.stat().st_size} bytes instead of {total * dtype.itemsize}")
        self._ids = np.memmap(file, dtype, "r") if total else np.empty(0, dtype)

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self._positions[index] // self._ids.dtype.itemsize
        return self._ids[start : start + self._lengths[index]]


class MegatronFormat(ShardFormat):
    """An indexed dataset per shard. Pass the path without suffix as `--data-path` of Megatron."""

    name = "megatron"

    def suffixes(self, info: DatasetInfo) -> tuple[str, ...]:
        """Return the suffixes of the ids, of the index and of the lines."""
        return (".bin", ".idx", row_lines.SUFFIX)

    def check(self, info: DatasetInfo) -> None:
        """Check that rows are tokens that are not packed."""
        if info.kind != "tokens" or info.packed_bits:
            what = "packed ids" if info.packed_bits else "latents"
            raise SmaltiError(f"Megatron's files hold ids of a fixed type, not {what}: choose another --format.")

    def write(self, base: Path, info: DatasetInfo) -> ShardWriter:
        """Create the files of a shard."""
        return _MegatronWriter(base, info)

    def read(self, base: Path, info: DatasetInfo) -> ShardReader:
        """Map the ids of a shard into memory."""
        return _MegatronReader(base, info)


class _MegatronWriter(ShardWriter):
    def __init__(self, base: Path, info: DatasetInfo) -> None:
        self._array = info.arrays[0]
        self._dataset = IndexedDatasetWriter(base, info.dtype)
        self._lines = add_suffix(base, row_lines.SUFFIX).open("w", encoding="utf-8", newline="\n")

    def add(self, row: Row) -> None:
        self._dataset.add_document([row.arrays[self._array].ravel()])
        self._lines.write(row_to_json(row) + "\n")

    def close(self) -> None:
        self._dataset.close()
        self._lines.close()


class _MegatronReader(ShardReader):
    def __init__(self, base: Path, info: DatasetInfo) -> None:
        self._base = base
        self._info = info
        with damage_as_error(add_suffix(base, ".idx")):
            self._dataset = IndexedDatasetReader(base)
            self._lines = row_lines.LineReader(add_suffix(base, row_lines.SUFFIX))
            if len(self._lines) != len(self._dataset):
                raise ValueError(f"{len(self._dataset)} sequences for {len(self._lines)} rows")

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, index: int) -> Row:
        name, ids = self._info.arrays[0], self._dataset[index]
        with damage_as_error(add_suffix(self._base, row_lines.SUFFIX)):
            ids = ids.reshape(-1, self._info.tokens_per_position) if name == "ids" else ids
            return row_from_json(self._lines[index], {name: ids})
