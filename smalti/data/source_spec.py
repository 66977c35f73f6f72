"""Opening the data source that the `--data` option of a command names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from smalti.data.file_lists import ImageFiles, VideoFiles
from smalti.data.folders import Folder, VideoFolder, open_folder
from smalti.data.shards import Shards, VideoShards
from smalti.data.sources import IndexedSource, Source
from smalti.errors import SmaltiError
from smalti.extensions import import_object
from smalti.video import VIDEO_SUFFIXES

# A dotted name whose last part is capitalized, as class names are: file names such as "train.tar.gz" do not match.
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\._*[A-Z]\w*", re.ASCII)


def open_source(spec: str) -> Source:
    """Open a data source by its specification on the command line.

    The specification is one of:

    - a folder, which contains either images or videos;
    - an image file or a video file, distinguished by suffix;
    - shards: a path, pattern or URL that contains ".tar", by default of images;
    - "images:" or "videos:" and one of the above, for shards of videos and for a folder that contains both kinds;
    - the `prefix` of a source, a colon, and the argument of its constructor, such as "photos:validation";
    - the class path of a source, such as "my_package.MySource" or "my_package.MySource:argument". The module is imported,
      and the class is constructed without arguments, or with the text after the colon.

    Args:
        spec: the specification.

    Raises:
        SmaltiError: the specification is none of these, or the source cannot be opened.
    """
    name, colon, argument = spec.partition(":")
    if colon and name in ("images", "videos"):
        source = _open_path(argument, videos=name == "videos")
    elif colon and (cls := _find_prefix(name)):
        source = _construct(cls, spec, [argument])
    elif _CLASS_PATH.fullmatch(name) and not Path(spec).expanduser().exists():
        source = _construct(_import_class(name), spec, [argument] if colon else [])
    else:
        source = _open_path(spec)
    if source is None:
        prefixes = ", ".join(sorted(str(cls.prefix) for cls in _prefixed_classes()))
        raise SmaltiError(
            f"'{spec}' is not a data source: give a folder of images or of videos, a file, shards "
            f"('photos-{{000..009}}.tar', a glob or a URL; 'videos:clips-*.tar' if they contain videos), a prefix with an "
            f"argument such as photos:validation (prefixes: {prefixes}), or a class path (my_package.MySource or "
            "my_package.MySource:argument)."
        )
    return source


def _open_path(text: str, *, videos: bool | None = None) -> Source | None:
    """Open a folder, shards or a file. Returns None if it is none of them.

    Args:
        text: path, pattern or URL.
        videos: whether it contains videos; None to infer it from the content or the suffix.
    """
    path = Path(text).expanduser()
    if text and path.is_dir():
        return open_folder(path) if videos is None else VideoFolder(path) if videos else Folder(path)
    if ".tar" in text:
        return VideoShards(text) if videos else Shards(text)
    if text and path.is_file():
        is_video = path.suffix.lower() in VIDEO_SUFFIXES if videos is None else videos
        return VideoFiles([path]) if is_video else ImageFiles([path])
    return None


def _prefixed_classes() -> Iterator[type[Source]]:
    """Find the imported sources that declare a prefix."""
    classes: list[type[Source]] = [Source]
    while classes:
        cls = classes.pop()
        classes += cls.__subclasses__()
        if cls.__dict__.get("prefix"):
            yield cls


def _find_prefix(prefix: str) -> type[Source] | None:
    return next((cls for cls in _prefixed_classes() if cls.prefix == prefix), None)


def _import_class(class_path: str) -> type[Source]:
    cls = import_object(class_path, "data source")
    if not (isinstance(cls, type) and issubclass(cls, IndexedSource | Shards)):
        raise SmaltiError(
            f"{class_path} is not a data source: derive it from ImageSource, VideoSource or Shards of smalti.data."
        )
    return cls


def _construct(cls: type[Source], spec: str, arguments: list[str]) -> Source:
    try:
        inspect.signature(cls).bind(*arguments)
    except TypeError as error:
        raise SmaltiError(
            f"The data source '{spec}' cannot be constructed ({error}): pass one argument after a colon, or none."
        ) from error
    return cls(*arguments)
