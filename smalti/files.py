"""Writing files and folders atomically, and identifying files by their SHA-256."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from smalti.errors import SmaltiError

PARTIAL_PREFIX = ".partial-"
"""How the names of files begin that are being written."""


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Write a file atomically: readers see the old file or the complete new file, never a partial one.

    Creates missing folders. The file gets the permissions of any new file: 0666 without the bits of the umask.

    Args:
        file: the file to write or replace.

    Yields:
        A temporary path next to `file` to write to. The temporary file replaces `file` when the block ends without an
        error, and is removed otherwise. It has the same suffix, from which some writers infer the format.

    Raises:
        OSError: a folder cannot be created, or the file cannot be replaced.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{PARTIAL_PREFIX}{file.name}")
    try:
        yield partial
        _set_default_permissions(partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_write_folder(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Write several files into a folder: all of them, or none if the block raises an error.

    Creates missing folders. The files get the permissions of any new file: 0666 without the bits of the umask.

    Args:
        folder: the folder that receives the files.
        names: names of the files, in the order in which they are moved into place.

    Yields:
        A temporary folder in which the block writes files of these names.

    Raises:
        SmaltiError: a file or folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            staged = Path(temporary)
            yield staged
            folder.mkdir(exist_ok=True)
            for name in names:
                _set_default_permissions(staged / name)
                (staged / name).replace(folder / name)
    except OSError as error:
        raise SmaltiError(
            f"Files cannot be written to {folder} ({error.strerror or error}): check the permissions and the free disk "
            "space, or choose another folder."
        ) from error


def _set_default_permissions(file: Path) -> None:
    """Give a file the permissions of any new file. Some writers, such as that of safetensors, make their files private."""
    # A new file shows the permissions. The umask cannot be read without changing it for all threads.
    probe = file.with_name(f".permissions-{secrets.token_hex(8)}")
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        probe.unlink()
    if stat.S_IMODE(file.stat().st_mode) != mode:
        file.chmod(mode)


def check_overwrite(folder: Path, kind: str, marker: str, *, overwrite: bool) -> None:
    """Check that writing into a folder does not overwrite anything by accident.

    Args:
        folder: the folder to write; may be missing.
        kind: the kind of folder that may be overwritten, with an article, such as "an exported tokenizer".
        marker: name of a file that identifies a folder of this kind.
        overwrite: whether the user allows overwriting.

    Raises:
        SmaltiError: the folder is not empty, and `overwrite` is False or the folder is of another kind.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise SmaltiError(f"{folder} already exists and is not empty: choose another folder, or pass --overwrite.")
    if not (folder / marker).is_file():
        raise SmaltiError(f"{folder} is not {kind}, so it is not overwritten: choose another folder.")


def check_writable(folder: Path) -> None:
    """Check that files can be written to a folder, which may be missing, so that a command does not fail at its end.

    Raises:
        SmaltiError: the folder cannot be created, or its permissions forbid writing.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise SmaltiError(f"{folder} cannot be written, because {existing} is not a folder: choose another --out.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise SmaltiError(
            f"{folder} cannot be written, because you have no permission to write to {existing}: choose another --out."
        )


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits.

    The result is cached until the size or the modification time of the file changes.
    """
    status = file.stat()
    return _sha256(file.resolve(), status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=32)
def _sha256(file: Path, _inode: int, _size: int, _modified: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
