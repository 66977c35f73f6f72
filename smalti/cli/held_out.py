"""Holding out a part of a folder for validation."""

from __future__ import annotations

import hashlib
from pathlib import Path

from smalti.errors import SmaltiError
from smalti.folders import find_files

_SHARE = 10
"""One in this many files is held out."""


def split_folder(folder: Path, out: Path, *, videos: bool) -> tuple[Path, Path]:
    """Write two folders of links to the files of a folder: for training, and held out.

    The files with the smallest hashes of their relative paths are held out: the same ones in every run, also if files are
    renamed elsewhere. At least one file is held out.

    Args:
        folder: folder of images or videos, with subfolders.
        out: folder to write to; `train` and `validation` are created in it.
        videos: whether to split the videos or the images.

    Returns:
        The two folders.

    Raises:
        SmaltiError: the folder has fewer than two files.
    """
    from smalti.data.band_files import BAND_SUFFIXES, CHANNELS_FILE, is_band_folder
    from smalti.images import IMAGE_SUFFIXES  # imports PIL, which the help of the command does not need
    from smalti.video import VIDEO_SUFFIXES

    bands = is_band_folder(folder)
    files = find_files(folder, BAND_SUFFIXES if bands else VIDEO_SUFFIXES if videos else IMAGE_SUFFIXES)
    if len(files) < 2:
        kind = "videos" if videos else "images"
        raise SmaltiError(
            f"The folder {folder} has {len(files)} {kind}, too few to hold one out: add {kind}, or pass --validation."
        )
    order = sorted(files, key=lambda file: hashlib.sha256(file.relative_to(folder).as_posix().encode()).digest())
    count = max(1, len(files) // _SHARE)
    parts = {"validation": order[:count], "train": order[count:]}
    for name, part in parts.items():
        for file in part:
            link = out / name / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
        if bands:
            (out / name / CHANNELS_FILE).symlink_to((folder / CHANNELS_FILE).resolve())
    return out / "train", out / "validation"
