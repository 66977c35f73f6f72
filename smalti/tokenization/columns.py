"""Captions and other columns of samples: files of the same sample in a shard, or next to an image in a folder.

photos/a.jpg  photos/a.txt  photos/a.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from smalti.data import ImageFiles, Shards, Source, VideoFiles
from smalti.data.shard_reading import EncodedSample
from smalti.errors import SmaltiError, UnreadableError
from smalti.images import IMAGE_SUFFIXES
from smalti.tokenization.rows import Columns, is_text
from smalti.video import VIDEO_SUFFIXES

PROBED_SAMPLES = 16
"""Samples of a source that are searched for columns."""


def find_columns(source: Source) -> tuple[str, ...]:
    """Return the suffixes of the columns that the first samples of a source have, sorted.

    Images and videos are no columns.
    """
    found: set[str] = set()
    if isinstance(source, Shards):
        samples = (item for item in source.read_shard(0, with_columns=True) if isinstance(item, EncodedSample))
        for sample in islice(samples, PROBED_SAMPLES):
            found |= {name for name in sample.columns if not _is_medium("." + name)}
    elif isinstance(source, ImageFiles | VideoFiles):
        for path in source.paths[:PROBED_SAMPLES]:
            siblings = path.parent.glob(f"{_escape(path.stem)}.*")
            found |= {s.suffix[1:] for s in siblings if s.stem == path.stem and not _is_medium(s.suffix)}
    return tuple(sorted(found))


def check_columns(names: Sequence[str], reserved: Sequence[str]) -> None:
    """Check the names of columns.

    Raises:
        SmaltiError: a name is taken by what every row has.
    """
    taken = {"key", "version", "height", "width", "frames", "rate", "grids", *reserved}
    for name in names:
        if name in taken or name == "smalti.json" or name.removesuffix(".npy") in reserved:
            raise SmaltiError(
                f"The column '{name}' has the name of something that each row has: leave it out with --columns, or rename "
                "its files."
            )


def select_columns(available: Mapping[str, bytes], names: Sequence[str], sample: str) -> Columns:
    """Return the columns of a sample that are kept, text decoded.

    Raises:
        UnreadableError: a text is not UTF-8.
    """
    columns: Columns = {}
    for name in names:
        if name not in available:
            continue
        content = available[name]
        try:
            columns[name] = content.decode("utf-8") if is_text(name) else content
        except UnicodeDecodeError as error:
            raise UnreadableError(sample, f"its column {name} is not text in UTF-8") from error
    return columns


def read_sidecars(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return the content of the files next to an image or a video that have its name and one of these suffixes."""
    files = {name: path.with_name(f"{path.stem}.{name}") for name in names}
    return {name: file.read_bytes() for name, file in files.items() if file.is_file()}


def _is_medium(suffix: str) -> bool:
    return "." + suffix.rpartition(".")[2].lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def _escape(stem: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in stem)
