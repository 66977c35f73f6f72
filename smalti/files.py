"""Writing files and folders atomically, and identifying files by their SHA-256."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from smalti.errors import SmaltiError


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Write a file atomically: readers see the old file or the complete new one, never a part.

    Creates missing folders.

    Args:
        file: the file to write or replace.

    Yields:
        A temporary path next to `file` to write to. It replaces `file` when the block ends without an error, and is
        removed otherwise. It keeps the suffix, from which some writers infer the format.

    Raises:
        OSError: a folder cannot be created, or the file cannot be replaced.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".partial-{file.name}")
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_write_folder(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Write several files into a folder: all of them or, if the block fails, none.

    Creates missing folders.

    Args:
        folder: where the files go.
        names: names of the files, in the order in which they are moved into place.

    Yields:
        A temporary folder in which the block writes files of these names.

    Raises:
        SmaltiError: something cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            staged = Path(temporary)
            yield staged
            folder.mkdir(exist_ok=True)
            for name in names:
                (staged / name).replace(folder / name)
    except OSError as error:
        raise SmaltiError(f"The tokenizer cannot be written to {folder}: {error.strerror or error}.") from error


def check_overwrite(folder: Path, kind: str, marker: str, *, overwrite: bool) -> None:
    """Refuse to write into a folder whose content must not be overwritten.

    Args:
        folder: the folder to write; may be missing.
        kind: what the folder may contain, with its article, for the error message: "{folder} is not {kind}, ...".
        marker: name of a file that identifies a folder of this kind.
        overwrite: whether a folder of this kind may be overwritten.

    Raises:
        SmaltiError: the folder is not empty and `overwrite` is False, or it contains something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise SmaltiError(f"{folder} already exists and is not empty: choose another folder, or pass --overwrite.")
    if not (folder / marker).is_file():
        raise SmaltiError(f"{folder} is not {kind}, so it is not overwritten: choose another folder.")


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits.

    The result is cached as long as the size and the modification time of the file stay the same.
    """
    stat = file.stat()
    return _sha256(file.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=32)
def _sha256(file: Path, _size: int, _modified: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
