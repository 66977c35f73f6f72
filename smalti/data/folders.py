"""Folders of images and of videos."""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path

from smalti.data.sources import ImageFiles, VideoFiles
from smalti.errors import SmaltiError
from smalti.video import VIDEO_SUFFIXES

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff"),
        *(".jp2", ".j2k", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
"""File names that are taken for images, whatever their case; everything else in a folder is left alone."""


class Folder(ImageFiles):
    """Every image in a folder and the folders below it, sorted by relative path, links followed.

    Hidden files and folders (.cache, ._photo.jpg) are left alone.

    Args:
        path: the folder.

    Raises:
        SmaltiError: there is no such folder, it is a file, or it holds no image.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        root = _root(path, "images")
        paths = find_files(root, IMAGE_SUFFIXES)
        if not paths:
            raise SmaltiError(
                f"The folder {root} holds no images: put .jpg, .png or .webp files in it or below it, or give shards by a "
                f"pattern such as '{root}/*.tar'."
            )
        super().__init__(paths, root)


class VideoFolder(VideoFiles):
    """Every video in a folder and the folders below it, sorted and found as the images of `Folder`.

    Args:
        path: the folder.

    Raises:
        SmaltiError: there is no such folder, it is a file, or it holds no video.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        root = _root(path, "videos")
        paths = find_files(root, VIDEO_SUFFIXES)
        if not paths:
            raise SmaltiError(
                f"The folder {root} holds no videos: put .mp4, .webm or .mkv files in it or below it, or give shards by a "
                f"pattern such as '{root}/*.tar'."
            )
        super().__init__(paths, root)


def open_folder(path: Path) -> Folder | VideoFolder:
    """The images or the videos of a folder, whichever it holds.

    Raises:
        SmaltiError: it holds both, or neither.
    """
    root = _root(path, "images or videos")
    images, videos = find_files(root, IMAGE_SUFFIXES), find_files(root, VIDEO_SUFFIXES)
    if images and videos:
        raise SmaltiError(
            f"The folder {root} holds {len(images)} images ({images[0].name}, ...) and {len(videos)} videos "
            f"({videos[0].name}, ...): say which are meant by 'images:{root}' or 'videos:{root}'."
        )
    return VideoFolder(root) if videos else Folder(root)


def find_files(root: Path, suffixes: Set[str]) -> list[Path]:
    """Files of these suffixes below a folder that are not hidden, sorted by relative path."""
    return sorted((file for file in _walk(root) if file.suffix.lower() in suffixes), key=Path.as_posix)


def _root(path: str | os.PathLike[str], what: str) -> Path:
    root = Path(path).expanduser()
    if not root.exists():
        raise SmaltiError(f"There is no folder {root}: check the path.")
    if not root.is_dir():
        raise SmaltiError(f"{root} is a file: give the folder that holds the {what}.")
    return root


def _walk(root: Path) -> list[Path]:
    """Files below `root` that are not hidden; a link that leads back up is not followed twice."""
    files: list[Path] = []
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return files
