"""Writing a shard next to its final place, and marking it as done.

    out/.partial-NAME-1a2b3c/NAME.tar     while it is written
    out/NAME.tar                          renamed
    out/NAME.json                         the marker, last: what the shard carries, its files, and what could not be read

A shard without a marker does not count, and is written again. A marker has the sizes and the SHA-256 of the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smalti.errors import SmaltiError
from smalti.files import PARTIAL_PREFIX
from smalti.tokenization.dataset_info import DatasetInfo
from smalti.tokenization.formats import ShardWriter, find_format
from smalti.tokenization.rows import Row

MARKER_SUFFIX = ".json"


@dataclass(frozen=True)
class Marker:
    """What is known about a shard that is done.

    Attributes:
        name: name of the shard.
        info: what it carries; None if its input is damaged, and there is no shard.
        rows: number of rows.
        samples: number of samples that were requested.
        failures: (key, reason) of the samples that could not be read.
        damage: why the input shard cannot be read to its end; None if it can.
        input_bytes: size of the input shard; None if it is not a local file.
        files: size in bytes and SHA-256 of each file, by name.
        sums: number of positions, and sums of each channel and of its square, of latents; None for tokens.
    """

    name: str
    info: DatasetInfo
    rows: int = 0
    samples: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    damage: str | None = None
    input_bytes: int | None = None
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    sums: tuple[int, list[float], list[float]] | None = None

    def write(self, out: Path) -> None:
        """Write the marker atomically. Other processes may write the same one.

        Raises:
            SmaltiError: the file cannot be written.
        """
        content = {name: value for name, value in vars(self).items() if name != "info"}
        write_json(out / f"{self.name}{MARKER_SUFFIX}", self.info.to_dict() | {"shard": content})

    @classmethod
    def read(cls, file: Path) -> Marker:
        """Read a marker.

        Raises:
            SmaltiError: the file is damaged, or no marker.
        """
        content = read_json(file)
        info = DatasetInfo.from_dict(content, file)
        try:
            values = dict(content["shard"])
            values["failures"] = [(key, reason) for key, reason in values["failures"]]
            values["files"] = {name: (size, digest) for name, (size, digest) in values["files"].items()}
            values["sums"] = None if values["sums"] is None else tuple(values["sums"])
            return cls(info=info, **values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SmaltiError(f"{file} is damaged ({error}): delete it, and tokenize the dataset again.") from error

    def find_missing(self, out: Path) -> str | None:
        """Return the name of a file of the shard that is missing or has another size; None if all are there."""
        for name, (size, _) in self.files.items():
            try:
                if (out / name).stat().st_size != size:
                    return name
            except OSError:
                return name
        return None


class ShardOutput:
    """Writes one shard.

    Args:
        out: folder of the dataset.
        name: name of the shard.
        info: what it carries.

    Raises:
        SmaltiError: the files cannot be written.
    """

    def __init__(self, out: Path, name: str, info: DatasetInfo) -> None:
        self._out = out
        self._name = name
        self._info = info
        self._format = find_format(info.format)
        self._folder = out / f"{PARTIAL_PREFIX}{name}-{secrets.token_hex(4)}"
        self.rows = 0
        try:
            self._folder.mkdir(parents=True)
            self._writer: ShardWriter | None = self._format.write(self._folder / name, info)
        except OSError as error:
            raise _write_error(out, error) from error

    def add(self, row: Row) -> None:
        """Append a row.

        Raises:
            SmaltiError: the format cannot hold it, or the disk is full.
        """
        assert self._writer is not None
        try:
            self._writer.add(row)
        except OSError as error:
            raise _write_error(self._out, error) from error
        self.rows += 1

    def commit(self) -> dict[str, tuple[int, str]]:
        """Complete the files and move them into place.

        Returns:
            Size in bytes and SHA-256 of each file, by name, for the marker.

        Raises:
            SmaltiError: the files cannot be written.
        """
        try:
            self._close()
            names = [self._name + suffix for suffix in self._format.suffixes(self._info)]
            described = {name: _describe_file(self._folder / name) for name in names}
            for name in names:
                (self._folder / name).replace(self._out / name)
        except OSError as error:
            raise _write_error(self._out, error) from error
        self.discard()
        return described

    def discard(self) -> None:
        """Remove what is not in place yet."""
        self._close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()


def remove_partial(out: Path, names: Iterable[str]) -> None:
    """Remove what interrupted processes have left of shards and markers.

    Args:
        out: folder of the dataset.
        names: names of the shards that no other process writes.
    """
    names = set(names)
    for path in out.glob(f"{PARTIAL_PREFIX}*"):
        stem = path.name.removeprefix(PARTIAL_PREFIX).rpartition("-")[0]
        if stem in names:
            shutil.rmtree(path, ignore_errors=True)
        elif stem.removesuffix(MARKER_SUFFIX) in names:
            path.unlink(missing_ok=True)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically, under a temporary name of its own: several processes may write the same file.

    Raises:
        SmaltiError: the file cannot be written.
    """
    partial = file.with_name(f"{PARTIAL_PREFIX}{file.name}-{secrets.token_hex(4)}")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as error:
        if not (isinstance(error, FileNotFoundError) and file.exists()):  # another process has written and cleaned up
            raise _write_error(file.parent, error) from error
    finally:
        partial.unlink(missing_ok=True)


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        SmaltiError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SmaltiError(f"{file} cannot be read ({error}): delete it, and tokenize the dataset again.") from error


def merge_sums(markers: Sequence[Marker]) -> tuple[list[float], list[float]] | None:
    """Return mean and standard deviation of each channel over shards of latents; None without latents."""
    import numpy as np

    found = [marker.sums for marker in markers if marker.sums is not None]
    count = sum(positions for positions, _, _ in found)
    if not count:
        return None
    first = np.sum([first for _, first, _ in found], axis=0) / count
    second = np.sum([second for _, _, second in found], axis=0) / count
    return first.tolist(), np.sqrt(np.maximum(second - first**2, 0)).tolist()


def _describe_file(file: Path) -> tuple[int, str]:
    """Write a file to the disk, and return its size and its SHA-256."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        return file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()


def _write_error(out: Path, error: OSError) -> SmaltiError:
    return SmaltiError(
        f"Shards cannot be written to {out} ({error.strerror or error}): check the permissions and the free disk "
        "space, then run the command again, which continues where it stopped."
    )
