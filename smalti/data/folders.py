"""Data sources that are folders of images or of videos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from smalti.data.file_lists import ImageFiles, VideoFiles
from smalti.data.folder_index import index_folder
from smalti.data.path_table import PathTable
from smalti.errors import SmaltiError


class Folder(ImageFiles):
    """All images in a folder and its subfolders, sorted by relative path. Symbolic links are followed.

    Hidden files and folders (.cache, ._photo.jpg) are ignored.

    Args:
        path: Path of the folder.

    Raises:
        SmaltiError: the folder does not exist, is a file, or contains no image.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(*_open_folder(path, "images"))


class VideoFolder(VideoFiles):
    """All videos in a folder and its subfolders, listed by the same rules as the images of `Folder`.

    Args:
        path: Path of the folder.

    Raises:
        SmaltiError: the folder does not exist, is a file, or contains no video.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(*_open_folder(path, "videos"))


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


def _open_folder(path: str | os.PathLike[str], kind: Literal["images", "videos"]) -> tuple[PathTable, Path]:
    """Return the files of one kind in a folder, and the folder.

    Raises:
        SmaltiError: the folder does not exist, is a file, or contains no such file.
    """
    root = _check_folder(path, kind)
    paths = getattr(index_folder(root), kind)
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
