"""The images, videos and shards in a folder. Large folders are listed once, for all processes and all later runs.

    first process:  list the folder -> write the index to the cache
    all others:     wait for it     -> read the index, and check that no folder has changed since

The index of a folder with 20,000 files or more is a file in `~/.cache/smalti/folders` (`$XDG_CACHE_HOME/smalti/folders` if
this variable is set). It needs no process group, so that processes share it that start one another, as Lightning's do, and
several nodes with one home folder. It may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from smalti.data.path_table import PathTable
from smalti.files import atomic_write
from smalti.folders import modification_times, walk_folders
from smalti.images import IMAGE_SUFFIXES
from smalti.video import VIDEO_SUFFIXES

logger = logging.getLogger("smalti.data")

SHARD_SUFFIXES = frozenset((".tar",))

MIN_FILES = 20_000
"""Number of files from which on the index of a folder is kept. Smaller folders are listed in less than 0.1 s."""

_FORMAT = "smalti folder index 1"
_SETTLED = 2.0
"""Age of a change in seconds after which the next change certainly gets another time."""


class FolderIndex(NamedTuple):
    """The files in a folder and its subfolders that Smalti reads, each kind sorted by relative path."""

    images: PathTable
    videos: PathTable
    shards: PathTable


_SUFFIXES = (IMAGE_SUFFIXES, VIDEO_SUFFIXES, SHARD_SUFFIXES)
_KINDS = {suffix: kind for kind, suffixes in enumerate(_SUFFIXES) for suffix in suffixes}


def index_folder(root: Path) -> FolderIndex:
    """Return the images, videos and shards in a folder and its subfolders.

    Hidden files and folders are ignored; symbolic links are followed. A folder that cannot be read is logged. Files that
    are added, removed or renamed are noticed by the modification times of the folders.

    Args:
        root: the folder, which exists.
    """
    file = _cache_file(root)
    index = _read(file, root)
    if index is not None:
        return index
    listing = _list(root, MIN_FILES)
    if listing is None:
        with _one_process_at_a_time(file):
            index = _read(file, root)  # another process may have written it in the meantime
            if index is not None:
                return index
            listing = _list(root)
            assert listing is not None  # there is no limit
            _write(file, root, listing)
    return listing.to_index(root)


@dataclass
class _Listing:
    """The files of each kind, unsorted, and the folders with their times; None if one of them cannot be read."""

    files: tuple[list[str], ...]
    folders: list[str]
    times: list[tuple[int, int]] | None

    def to_index(self, root: Path) -> FolderIndex:
        return FolderIndex(*(PathTable(sorted(files), root) for files in self.files))


def _list(root: Path, limit: int | None = None) -> _Listing | None:
    """List a folder. Returns None if it has at least `limit` files."""
    listing = _Listing(tuple([] for _ in _SUFFIXES), [], [])
    count = 0
    for folder in walk_folders(root):
        count += len(folder.files)
        if limit is not None and count >= limit:
            return None
        listing.folders.append(folder.path)
        if folder.times is None:
            listing.times = None
        elif listing.times is not None:
            listing.times.append(folder.times)
        for file in folder.files:
            kind = _KINDS.get(os.path.splitext(file)[1].lower())  # noqa: PTH122
            if kind is not None:
                listing.files[kind].append(file)
    return listing


def _cache_file(root: Path) -> Path:
    """Return the path of the index of a folder.

    It depends on the inode: nodes with one home folder and copies of the data on their own disks have an index each.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    key = os.fsencode(os.path.realpath(root)) + b"\0%d" % root.stat().st_ino
    return cache / "smalti" / "folders" / f"{hashlib.sha256(key).hexdigest()[:32]}.safetensors"


@contextmanager
def _one_process_at_a_time(file: Path) -> Iterator[None]:
    """Hold the lock of an index; go on without it where it cannot be locked."""
    lock = FileLock(f"{file}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        logger.warning("Every process lists the folder, because %s cannot be locked (%s).", lock.lock_file, error)
    try:
        yield
    finally:
        lock.release()


def _write(file: Path, root: Path, listing: _Listing) -> None:
    """Write the index of a folder, unless it is changing."""
    if listing.times is None:
        return
    age = time.time() - max(max(times) for times in listing.times) / 1e9
    time.sleep(min(max(0.0, _SETTLED - age), _SETTLED))
    if age < 0 or not _is_unchanged(root, listing.folders, listing.times):
        logger.info("The folder %s is changing: it will be listed again.", root)
        return
    tensors: dict[str, Tensor] = {"times": torch.tensor(listing.times, dtype=torch.int64)}
    tables = [*listing.to_index(root), PathTable(listing.folders)]
    for name, table in zip((*FolderIndex._fields, "folders"), tables, strict=True):
        tensors[f"{name}.bytes"], tensors[f"{name}.ends"] = table.to_tensors()
    metadata = _metadata(root) | {"sha256": _checksum(tensors)}
    try:
        with atomic_write(file) as partial:
            save_file(tensors, partial, metadata)
    except OSError as error:
        logger.warning("The index of the folder %s cannot be written to %s (%s).", root, file, error)


def _read(file: Path, root: Path) -> FolderIndex | None:
    """Read the index of a folder. Returns None if there is none, or if it is damaged or the folder has changed.

    The tensors are copied to memory: another run may replace the file.
    """
    names = [f"{table}.{part}" for table in (*FolderIndex._fields, "folders") for part in ("bytes", "ends")]
    try:
        with safe_open(file, "pt") as stored:
            metadata = stored.metadata() or {}
            if _metadata(root).items() - metadata.items():
                return None
            tensors = {name: stored.get_tensor(name).clone() for name in (*names, "times")}
        if metadata.get("sha256") != _checksum(tensors):
            return None
    except (OSError, SafetensorError):
        return None
    tables = [
        PathTable.from_tensors(tensors[f"{name}.bytes"], tensors[f"{name}.ends"], root) for name in FolderIndex._fields
    ]
    folders = PathTable.from_tensors(tensors["folders.bytes"], tensors["folders.ends"], None)
    paths = (folders.relative(index) for index in range(len(folders)))
    return FolderIndex(*tables) if _is_unchanged(root, paths, map(tuple, tensors["times"].tolist())) else None


def _metadata(root: Path) -> dict[str, str]:
    """Return what an index must have been written for."""
    suffixes = json.dumps([sorted(suffixes) for suffixes in _SUFFIXES])
    return {"format": _FORMAT, "root": repr(os.path.realpath(root)), "suffixes": suffixes}


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _is_unchanged(root: Path, folders: Iterable[str], times: Iterable[tuple[int, ...]]) -> bool:
    try:
        return all(
            modification_times(os.path.join(root, folder)) == before  # noqa: PTH118
            for folder, before in zip(folders, times, strict=True)
        )
    except OSError:
        return False
