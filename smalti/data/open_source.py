"""Loaders of batches, for training and for evaluation, and the source that a command's `--data` names."""

from __future__ import annotations

from pathlib import Path

from smalti.data.folders import Folder, VideoFolder, open_folder
from smalti.data.packaged_clips import Clips
from smalti.data.packaged_photos import Photos
from smalti.data.shards import Shards, VideoShards
from smalti.data.sources import ImageFiles, Source, VideoFiles
from smalti.errors import SmaltiError
from smalti.video import VIDEO_SUFFIXES


def open_source(spec: str) -> Source:
    """The source that a command's `--data` names.

    A folder is of images or of videos, by what it holds, and a file by its suffix. "images:" or "videos:" before the path
    says which is meant: needed for a folder that holds both, and for shards of videos.

    Args:
        spec: a folder, a file, shards (a path, pattern or URL that holds ".tar"; of images, unless it begins with
            "videos:"), or "photos:" or "clips:" and a split.

    Raises:
        SmaltiError: it is none of these, or the source cannot be opened.
    """
    if spec.startswith("photos:"):
        return Photos(spec.removeprefix("photos:"))  # pyright: ignore[reportArgumentType] - Photos checks it
    if spec.startswith("clips:"):
        return Clips(spec.removeprefix("clips:"))  # pyright: ignore[reportArgumentType] - Clips checks it
    kind, colon, rest = spec.partition(":")
    named = kind if colon and kind in ("images", "videos") else None
    where = rest if named else spec
    path = Path(where).expanduser()
    if where and path.is_dir():
        return {"images": Folder, "videos": VideoFolder, None: open_folder}[named](path)
    if ".tar" in where:
        return VideoShards(where) if named == "videos" else Shards(where)
    if where and path.is_file():
        video = path.suffix.lower() in VIDEO_SUFFIXES if named is None else named == "videos"
        return VideoFiles([path]) if video else ImageFiles([path])
    raise SmaltiError(
        f"'{spec}' is no data: give a folder of images or of videos, one file, shards ('photos-{{000..009}}.tar', a glob "
        "or a URL; 'videos:clips-*.tar' where they hold videos), photos:validation or clips:validation (or train, or all)."
    )
