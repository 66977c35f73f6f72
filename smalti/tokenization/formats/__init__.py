"""Shard formats by name: one file per format."""

from __future__ import annotations

from smalti.errors import SmaltiError
from smalti.tokenization.formats.base import ShardFormat, ShardReader, ShardWriter
from smalti.tokenization.formats.megatron import MegatronFormat
from smalti.tokenization.formats.npy import NpyFormat
from smalti.tokenization.formats.parquet import ParquetFormat
from smalti.tokenization.formats.webdataset import WebDatasetFormat

FORMATS: dict[str, ShardFormat] = {
    format_.name: format_ for format_ in (WebDatasetFormat(), ParquetFormat(), MegatronFormat(), NpyFormat())
}

__all__ = ["FORMATS", "ShardFormat", "ShardReader", "ShardWriter", "find_format"]


def find_format(name: str) -> ShardFormat:
    """Return a format by name.

    Raises:
        SmaltiError: there is no such format.
    """
    if name not in FORMATS:
        raise SmaltiError(f"There is no format '{name}' for token datasets: choose {', '.join(FORMATS)}.")
    return FORMATS[name]
