"""The interface of shard formats: a writer takes rows, a reader returns any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from smalti.errors import SmaltiError
from smalti.tokenization.dataset_info import DatasetInfo
from smalti.tokenization.rows import Row


class ShardWriter(ABC):
    """Writes one shard, row by row. Use it as a context manager: the files are complete when the block ends."""

    @abstractmethod
    def add(self, row: Row) -> None:
        """Append a row.

        Raises:
            SmaltiError: the format cannot hold this row after the ones before it.
        """

    @abstractmethod
    def close(self) -> None:
        """Complete and close the files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class ShardReader(ABC):
    """Reads the rows of one shard in any order."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def read(self, index: int) -> Row:
        """Return the row at an index from 0."""


class ShardFormat(ABC):
    """A format of shards. The files of a shard are named by its name and a suffix each.

    Attributes:
        name: name of the format for the option `--format`.
    """

    name: ClassVar[str]

    @abstractmethod
    def suffixes(self, info: DatasetInfo) -> tuple[str, ...]:
        """Return the suffixes of the files of a shard, with their dot."""

    @abstractmethod
    def write(self, base: Path, info: DatasetInfo) -> ShardWriter:
        """Create the files of a shard.

        Args:
            base: path of the files without their suffix.
            info: what the rows contain.
        """

    @abstractmethod
    def read(self, base: Path, info: DatasetInfo) -> ShardReader:
        """Open a shard.

        Args:
            base: path of the files without their suffix.
            info: what the rows contain.

        Raises:
            SmaltiError: the shard is damaged.
        """

    def check(self, info: DatasetInfo) -> None:  # noqa: B027 (optional)
        """Check that the format can hold rows of this kind.

        Raises:
            SmaltiError: it cannot.
        """


def add_suffix(base: Path, suffix: str) -> Path:
    """Return a path with a suffix appended. The name may contain dots, which `Path.with_suffix` would cut."""
    return base.with_name(base.name + suffix)


@contextmanager
def damage_as_error(file: Path, *errors: type[Exception]) -> Iterator[None]:
    """Raise errors of a reader as an error for users.

    Raises:
        SmaltiError: the block has raised an OSError, a KeyError, a TypeError, a ValueError or one of `errors`.
    """
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError, EOFError, *errors) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise SmaltiError(
            f"{file} is damaged ({reason}): delete it with the .json file of its shard, and run `smalti "
            "tokenize-dataset` again."
        ) from error
