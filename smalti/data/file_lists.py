"""Data sources that are lists of image files or of video files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from smalti.data.path_table import PathTable
from smalti.data.sources import ImageSource, IndexedSource, VideoSegment, VideoSource
from smalti.images import decode_image


class _FileList(IndexedSource):
    """Files in a given order.

    Args:
        paths: the files. A table with paths relative to the root is used as it is.
        root: folder to which the names of the items are relative; None to use the file names alone.

    Raises:
        ValueError: a file is not in the root.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]], root: Path | None = None) -> None:
        if not isinstance(paths, PathTable):
            paths = PathTable(paths if root is None else (Path(path).relative_to(root) for path in paths), root)
        self.paths = paths
        self.root = root

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Return the path relative to the root, with forward slashes; without a root, the file name."""
        return self.paths[index].name if self.root is None else self.paths.relative(index)

    def digest(self) -> str:
        """Return the SHA-256 of the names in order; see `Source.digest`."""
        return super().digest() if self.root is None else self.paths.digest()

    def origins(self) -> list[str]:
        """Return the path of each file without symbolic links."""
        return resolve_paths(self.paths)

    def __str__(self) -> str:
        return str(self.root or ", ".join(str(path) for path in self.paths[:3]))


class ImageFiles(_FileList, ImageSource):
    """Image files in a given order. Each is decoded whenever it is fetched.

    Args:
        paths: Paths of the files.
        root: Folder to which the names of the images are relative; None to use the file names alone.
    """

    def __getitem__(self, index: int) -> Image.Image:
        return decode_image(self.paths[index])

    def image_file(self, index: int) -> Path | None:
        """Return the path of the image; None in a subclass that changes what is decoded."""
        return self.paths[index] if type(self).__getitem__ is ImageFiles.__getitem__ else None


class VideoFiles(_FileList, VideoSource):
    """Video files in a given order.

    Args:
        paths: Paths of the files.
        root: Folder to which the names of the videos are relative; None to use the file names alone.
    """

    def __getitem__(self, index: int) -> VideoSegment:
        return VideoSegment(self.name(index), self.paths[index])


def resolve_paths(paths: Iterable[Path]) -> list[str]:
    """Return the absolute paths of files without symbolic links.

    Lists each folder once instead of asking for the status of each file, which takes minutes for a million files on a
    network file system.
    """
    folders: dict[str, tuple[str, set[str]]] = {}
    resolved: list[str] = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder), _find_links(folder)
        real_folder, links = folders[folder]
        resolved.append(os.path.realpath(path) if name in links else f"{real_folder}{os.sep}{name}")
    return resolved


def _find_links(folder: str) -> set[str]:
    with os.scandir(folder or ".") as entries:
        return {entry.name for entry in entries if entry.is_symlink()}
