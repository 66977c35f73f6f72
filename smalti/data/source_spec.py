"""Opening the data source that an option of a command names, such as `--data` or `--data.train`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from smalti.data.band_files import CHANNELS_FILE, BandClips, BandFiles, BandFolder, is_band_folder, read_channels_file
from smalti.data.file_lists import ImageFiles, VideoFiles
from smalti.data.folder_index import index_folder
from smalti.data.folders import empty_folder_error
from smalti.data.shards import Shards, VideoShards
from smalti.data.sources import IndexedSource, Source
from smalti.errors import SmaltiError
from smalti.extensions import import_object
from smalti.images import IMAGE_SUFFIXES
from smalti.video import VIDEO_SUFFIXES

# A dotted name whose last part is capitalized, as class names are: file names such as "train.tar.gz" do not match.
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\._*[A-Z]\w*", re.ASCII)


def open_source(spec: str, videos: bool | None = None, *, any_channels: bool = False) -> Source:
    """Open a data source by its specification on the command line.

    The specification is one of:
    - a folder, which contains images, videos, or shards (.tar files); a folder with channels.yaml contains images or
      clips with the channels that this file names, see `BandFolder` and `BandClips`;
    - an image file or a video file, distinguished by suffix;
    - shards: a path, pattern or URL that contains ".tar";
    - "images:" or "videos:" and one of the above, for shards and for a folder that contains both kinds;
    - the `prefix` of a source, a colon, and the argument of its constructor, such as "photos:validation";
    - the class path of a source, such as "my_package.MySource" or "my_package.MySource:argument". The module is imported,
      and the class is constructed without arguments, or with the text after the colon. The name alone suffices for a class
      that is already imported, such as "Photos".

    An existing file or folder of this name is preferred to a class.

    Args:
        spec: the specification.
        videos: whether to use the videos (True) or the images (False) of shards and of a folder that contains both kinds.
            None: shards contain images, and a folder that contains both kinds is an error.

        any_channels: whether images may have other channels than red, green and blue.

    Raises:
        SmaltiError: the specification is none of these, or the source cannot be opened.
    """
    name, colon, argument = spec.partition(":")
    if colon and name in ("images", "videos"):
        source = _open_path(argument, videos=name == "videos", forced=True)
    elif colon and (cls := _find_prefix(name)):
        source = _construct(cls, spec, [argument])
    elif not Path(spec).expanduser().exists() and (cls := _find_class(name)):
        source = _construct(cls, spec, [argument] if colon else [])
    else:
        source = _open_path(spec, videos=videos, forced=False)
    if source is None:
        prefixes = ", ".join(sorted(str(cls.prefix) for cls in _prefixed_classes()))
        raise SmaltiError(
            f"'{spec}' is not a data source (there is no such file or folder): give a folder of images or of videos, a "
            f"file, shards ('photos-{{000..009}}.tar', a glob or a URL; 'videos:clips-*.tar' if they contain videos), a "
            f"prefix with an argument such as photos:validation (prefixes: {prefixes}), or a class path "
            "(my_package.MySource or my_package.MySource:argument)."
        )
    if isinstance(source, BandFiles) and not any_channels:
        raise SmaltiError(
            f"{spec} has a file {CHANNELS_FILE}, but this command reads photos and videos only: such data are for "
            "`smalti fit`, `smalti finetune`, and `smalti evaluate` without --reduce."
        )
    return source


def _open_path(text: str, *, videos: bool | None, forced: bool) -> Source | None:
    """Open a folder, shards or a file. Returns None if it is none of them.

    Args:
        text: path, pattern or URL.
        videos: the kind to use where both are possible; see `open_source`.
        forced: whether to use this kind only. Otherwise, content of the other kind is opened if there is no other.
    """
    path = Path(text).expanduser()
    if text and path.is_dir():
        return _open_folder(path, videos=videos, forced=forced)
    suffix = path.suffix.lower()
    is_file = bool(text) and path.is_file()
    if ".tar" in text and not (is_file and suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES):
        return VideoShards(text) if videos else Shards(text)
    if not is_file:
        return None
    if not forced and suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        videos = suffix in VIDEO_SUFFIXES
    return VideoFiles([path]) if videos else ImageFiles([path])


def _open_folder(root: Path, *, videos: bool | None, forced: bool) -> Source:
    """Open a folder of images, videos or shards; see `_open_path`.

    Raises:
        SmaltiError: the folder contains nothing of the kind, or both kinds where `videos` is None.
    """
    if is_band_folder(root) and ((clips := read_channels_file(root).clips) or not videos):
        return BandClips(root) if clips else BandFolder(root)
    image_paths, video_paths, shards = index_folder(root)
    if not image_paths and not video_paths and shards:
        return (VideoShards if videos else Shards)([str(shard) for shard in shards])
    if image_paths and video_paths and videos is None:
        image, video = image_paths[0].name, video_paths[0].name
        raise SmaltiError(
            f"The folder {root} contains {len(image_paths)} images ({image}, ...) and {len(video_paths)} videos "
            f"({video}, ...): choose one kind with 'images:{root}' or 'videos:{root}'."
        )
    if video_paths and (videos or not (image_paths or forced)):
        return VideoFiles(video_paths, root)
    if image_paths and not (videos and forced):
        return ImageFiles(image_paths, root)
    raise empty_folder_error(root, {True: "videos", False: "images", None: "images or videos"}[videos])


def _subclasses() -> Iterator[type[Source]]:
    """Iterate over all imported sources."""
    classes: list[type[Source]] = [Source]
    while classes:
        cls = classes.pop()
        classes += cls.__subclasses__()
        yield cls


def _prefixed_classes() -> Iterator[type[Source]]:
    """Find the imported sources that declare a prefix."""
    return (cls for cls in _subclasses() if cls.__dict__.get("prefix"))


def _find_prefix(prefix: str) -> type[Source] | None:
    return next((cls for cls in _prefixed_classes() if cls.prefix == prefix), None)


def _find_class(name: str) -> type[Source] | None:
    """Return an imported source by its name alone, or import a class path. None if the name is neither.

    Raises:
        SmaltiError: the class cannot be imported, or is not a source.
    """
    if name.isidentifier():
        return next((cls for cls in _subclasses() if cls.__name__ == name and not _is_abstract(cls)), None)
    if not _CLASS_PATH.fullmatch(name):
        return None
    cls = import_object(name, "data source")
    if not (isinstance(cls, type) and issubclass(cls, Source)) or _is_abstract(cls):
        raise SmaltiError(
            f"{name} is not a data source: derive it from ImageSource, VideoSource or Shards of smalti.data."
        )
    return cls


def _is_abstract(cls: type[Source]) -> bool:
    """Return whether a source has abstract methods, or is neither an IndexedSource nor Shards."""
    abstract = any(getattr(getattr(cls, name), "__isabstractmethod__", False) for name in dir(cls))
    return abstract or not issubclass(cls, IndexedSource | Shards)


def _construct(cls: type[Source], spec: str, arguments: list[str]) -> Source:
    try:
        inspect.signature(cls).bind(*arguments)
    except TypeError as error:
        raise SmaltiError(
            f"The data source '{spec}' cannot be constructed ({error}): pass one argument after a colon, or none."
        ) from error
    return cls(*arguments)
