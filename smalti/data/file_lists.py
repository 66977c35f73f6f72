"""Data sources that are lists of image files or of video files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from smalti.data.image_decoding import decode_image
from smalti.data.sources import ImageSource, IndexedSource, VideoSegment, VideoSource


class _FileList(IndexedSource):
    """Files in a given order.

    Args:
        paths: the files.
        root: folder to which the names of the items are relative; None to use the file names alone.
    """

    def __init__(self, paths: Sequence[Path], root: Path | None = None) -> None:
        self.paths = list(paths)
        self.root = root

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Return the path relative to the root, with forward slashes; without a root, the file name."""
        path = self.paths[index]
        return path.name if self.root is None else path.relative_to(self.root).as_posix()

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


class VideoFiles(_FileList, VideoSource):
    """Video files in a given order.

    Args:
        paths: Paths of the files.
        root: Folder to which the names of the videos are relative; None to use the file names alone.
    """

    def __getitem__(self, index: int) -> VideoSegment:
        return VideoSegment(self.name(index), self.paths[index])
