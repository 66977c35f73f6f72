"""Parquet files: one row per sample, arrays as bytes.

| column | type | content |
|---|---|---|
| key | string | name of the sample |
| version | int32 | index of the preprocessing |
| height, width | int32 | size in pixels |
| frames | int32 | number of frames; null for images |
| rate | string | frames per second as a fraction; null for images |
| grids | list<list<int32>> | (t, h, w) of each latent grid |
| ids, mean, log_variance, reduced, ... | binary | values in C order, little endian, of the type in the metadata |
| others | string or binary | columns of the sample |

A binary column takes the bytes of its values. A list of 16-bit integers would take 4 bytes per value, because Parquet
stores them as 32-bit integers. With a vocabulary, `input_ids` is a list of int32, which training code reads directly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smalti.errors import MissingExtraError
from smalti.tokenization.dataset_info import DatasetInfo
from smalti.tokenization.formats.base import ShardFormat, ShardReader, ShardWriter, add_suffix, damage_as_error
from smalti.tokenization.rows import Row, describe_row, is_text, parse_row

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"
METADATA_KEY = b"smalti"
ROWS_PER_GROUP = 1024
"""Rows per row group: a reader of one row decodes one group."""


class ParquetFormat(ShardFormat):
    """One Parquet file per shard."""

    name = "parquet"

    def suffixes(self, info: DatasetInfo) -> tuple[str, ...]:
        """Return the suffix of a Parquet file."""
        return (SUFFIX,)

    def check(self, info: DatasetInfo) -> None:
        """Check that pyarrow is installed."""
        import_pyarrow()

    def write(self, base: Path, info: DatasetInfo) -> ShardWriter:
        """Create a Parquet file."""
        return _ParquetWriter(add_suffix(base, SUFFIX), info)

    def read(self, base: Path, info: DatasetInfo) -> ShardReader:
        """Read the footer of a Parquet file."""
        return _ParquetReader(add_suffix(base, SUFFIX), info)


def import_pyarrow() -> Any:
    """Return pyarrow with its module `parquet`.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", "Parquet files") from None
    return pa


def _schema(info: DatasetInfo) -> pa.Schema:
    pa = import_pyarrow()
    ids = pa.list_(pa.int64() if info.dtype == "int64" else pa.int32())
    fields = [
        ("key", pa.string()),
        ("version", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("frames", pa.int32()),
        ("rate", pa.string()),
        ("grids", pa.list_(pa.list_(pa.int32()))),
        *((name, ids if name == "input_ids" else pa.binary()) for name in info.arrays),
        *((column, pa.string() if is_text(column) else pa.binary()) for column in info.columns),
    ]
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(info.to_dict()).encode()})


class _ParquetWriter(ShardWriter):
    def __init__(self, file: Path, info: DatasetInfo) -> None:
        self._pa = import_pyarrow()
        self._schema = _schema(info)
        # Ids are close to random: compression would cost time and save nothing.
        self._writer = self._pa.parquet.ParquetWriter(file, self._schema, compression="none", use_dictionary=False)
        self._rows: list[dict[str, Any]] = []

    def add(self, row: Row) -> None:
        record = describe_row(row)
        height, width = record.pop("size")
        arrays = {
            name: values.ravel() if name == "input_ids" else np.ascontiguousarray(values).tobytes()
            for name, values in row.arrays.items()
        }
        self._rows.append(record | {"height": height, "width": width} | arrays | row.columns)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()


class _ParquetReader(ShardReader):
    def __init__(self, file: Path, info: DatasetInfo) -> None:
        self._pa = import_pyarrow()
        self._info = info
        self._file = file
        self._group: tuple[int, list[dict[str, Any]]] | None = None
        with damage_as_error(file, self._pa.ArrowException):
            self._reader = self._pa.parquet.ParquetFile(file, memory_map=True)
            metadata = self._reader.schema_arrow.metadata or {}
            carried = DatasetInfo.from_dict(json.loads(metadata.get(METADATA_KEY, b"null")), file)
            if (difference := info.find_difference(carried)) is not None:
                raise ValueError(f"its {difference} differs from that of the dataset")

    def __len__(self) -> int:
        return self._reader.metadata.num_rows

    def read(self, index: int) -> Row:
        group, position = divmod(index, ROWS_PER_GROUP)
        with damage_as_error(self._file, self._pa.ArrowException):
            if self._group is None or self._group[0] != group:
                self._group = (group, self._reader.read_row_group(group).to_pylist())
            record = dict(self._group[1][position])
            record["size"] = (record["height"], record["width"])
            arrays = {name: self._array(name, record) for name in self._info.arrays}
            columns = {name: record[name] for name in self._info.columns if record[name] is not None}
            return parse_row(record, arrays, columns)

    def _array(self, name: str, record: dict[str, Any]) -> np.ndarray:
        stored = record[name]
        if not isinstance(stored, bytes):
            return np.array(stored)
        values = np.frombuffer(stored, self._info.array_type(name))
        if self._info.packed_bits or name in ("lengths", "assignment", "sizes"):
            return values
        if name == "reduced":
            return values.reshape(self._array("lengths", record).sum(), -1)
        return values.reshape(sum(int(np.prod(grid)) for grid in record["grids"]), -1)
