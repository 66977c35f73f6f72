"""Data sources that are folders of images or of videos."""

from __future__ import annotations

import os
from collections.abc import Iterable, Set
from pathlib import Path

from smalti.data.file_lists import ImageFiles, VideoFiles
from smalti.errors import SmaltiError
from smalti.video import VIDEO_SUFFIXES

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff"),
        *(".jp2", ".j2k", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
"""Suffixes of image files, in lower case; files are matched case-insensitively. Other files in a folder are ignored."""


class Folder(ImageFiles):
    """All images in a folder and its subfolders, sorted by relative path. Symbolic links are followed.

    Hidden files and folders (.cache, ._photo.jpg) are ignored.

    Args:
        path: Path of the folder.

    Raises:
        SmaltiError: the folder does not exist, is a file, or contains no image.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(*_list_folder(path, "images", IMAGE_SUFFIXES))


class VideoFolder(VideoFiles):
    """All videos in a folder and its subfolders, listed by the same rules as the images of `Folder`.

    Args:
        path: Path of the folder.

    Raises:
        SmaltiError: the folder does not exist, is a file, or contains no video.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(*_list_folder(path, "videos", VIDEO_SUFFIXES))


def find_files(root: Path, suffixes: Set[str]) -> list[Path]:
    """Return the files with these suffixes in a folder and its subfolders, sorted by relative path.

    Hidden files and folders are ignored; symbolic links are followed.

    Args:
        root: the folder.
        suffixes: suffixes with their dot, in lower case; files are matched case-insensitively.
    """
    return [Path(file) for file in select_files(list_files(root), suffixes)]


def select_files(files: Iterable[str], suffixes: Set[str]) -> list[str]:
    """Return the files with these suffixes, sorted by path. Suffixes are matched as in `find_files`."""
    selected = (file for file in files if os.path.splitext(file)[1].lower() in suffixes)  # noqa: PTH122
    return sorted(selected, key=lambda file: file.replace(os.sep, "/"))


def list_files(root: Path) -> list[str]:
    """Return the files in a folder and its subfolders that are not hidden, in any order.

    Each folder is visited once, so that cyclic links end. Returns text, because millions of `Path` objects take gigabytes.
    """
    files: list[str] = []
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real_path = os.path.realpath(folder)
        if real_path in visited:
            subfolders.clear()
            continue
        visited.add(real_path)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files += [f"{folder}{os.sep}{name}" for name in names if not name.startswith(".")]
    return files


def empty_folder_error(root: Path, kind: str) -> SmaltiError:
    """Return the error for a folder without images, without videos, or without both.

    Args:
        root: the folder.
        kind: "images", "videos" or "images or videos".
    """
    examples = ".mp4, .webm or .mkv" if kind == "videos" else ".jpg, .png or .webp"
    return SmaltiError(
        f"The folder {root} contains no {kind}: put {examples} files into it or its subfolders, or name shards by a "
        f"pattern such as '{root}/*.tar'."
    )


def _list_folder(path: str | os.PathLike[str], kind: str, suffixes: Set[str]) -> tuple[list[str], Path]:
    """Return the files of one kind in a folder, and the folder.

    Raises:
        SmaltiError: the folder does not exist, is a file, or contains no such file.
    """
    root = _check_folder(path, kind)
    paths = select_files(list_files(root), suffixes)
    if not paths:
        raise empty_folder_error(root, kind)
    return paths, root


def _check_folder(path: str | os.PathLike[str], kind: str) -> Path:
    root = Path(path).expanduser()
    if not root.exists():
        raise SmaltiError(f"The folder {root} does not exist: check the path.")
    if not root.is_dir():
        raise SmaltiError(f"{root} is a file: give the folder that contains the {kind}.")
    return root
