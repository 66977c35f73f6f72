"""Listing the files in a folder and its subfolders."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Set
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger("smalti.data")


class FolderFiles(NamedTuple):
    """A folder: its path relative to the root, its modification times, and the relative paths of the files in it.

    Times are those of its content and of its status in nanoseconds. They are None if it cannot be read.
    """

    path: str
    times: tuple[int, int] | None
    files: list[str]


def find_files(root: Path, suffixes: Set[str]) -> list[Path]:
    """Return the files with these suffixes in a folder and its subfolders, sorted by relative path.

    Hidden files and folders are ignored; symbolic links are followed.

    Args:
        root: the folder.
        suffixes: suffixes with their dot, in lower case; files are matched case-insensitively.
    """
    files = (file for file in list_files(root) if os.path.splitext(file)[1].lower() in suffixes)  # noqa: PTH122
    return [Path(file) for file in sorted(files)]


def list_files(root: Path) -> list[str]:
    """Return the files in a folder and its subfolders that are not hidden, in any order.

    Each folder is visited once, so that cyclic links end. Returns text, because millions of `Path` objects take gigabytes.
    """
    return [f"{root}{os.sep}{name}" for folder in walk_folders(root) for name in folder.files]


def walk_folders(root: Path) -> Iterator[FolderFiles]:
    """Yield a folder and all of its subfolders. Logs those that cannot be read."""
    visited: set[str] = set()
    pending = [""]
    while pending:
        path = pending.pop()
        folder = os.path.join(root, path)  # noqa: PTH118
        real_path = os.path.realpath(folder)
        if real_path in visited:
            continue
        visited.add(real_path)
        prefix = path + os.sep if path else ""
        files: list[str] = []
        subfolders: list[str] = []
        try:
            times = modification_times(folder)  # before it is read: a later change is noticed
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        (subfolders if entry.is_dir() else files).append(prefix + entry.name)
        except OSError as error:
            logger.warning("The folder %s cannot be read (%s): its files are left out.", folder, error.strerror)
            times = None
        yield FolderFiles(path, times, files)
        pending += sorted(subfolders, reverse=True)


def modification_times(folder: str) -> tuple[int, int]:
    """Return the modification times of a folder's content and of its status, in nanoseconds."""
    status = os.stat(folder)  # noqa: PTH116
    return status.st_mtime_ns, status.st_ctime_ns
