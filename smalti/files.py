"""Writing files, and folders of them, whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from smalti.errors import SmaltiError


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to: it takes the file's place where the block ends well, and is removed where not.

    So a reader finds the old file or the new one, and nothing between. The path keeps the suffix, which tells some writers
    the format. Missing folders are made.

    Raises:
        OSError: a folder cannot be made, or the file cannot be replaced.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".partial-{file.name}")
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def refuse_occupied(folder: Path, kind: str, marker: str, *, overwrite: bool) -> None:
    """Raise where `folder` holds what should not be overwritten.

    Args:
        folder: to be written; may be missing.
        kind: what may be overwritten in it, for the sentence: "no {kind}, so it is not overwritten".
        marker: a file that tells that it is of this kind.
        overwrite: whether one of this kind may be.

    Raises:
        SmaltiError: it may not, or there is something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise SmaltiError(f"{folder} is there already and is not empty: choose another folder, or pass --overwrite.")
    if not (folder / marker).is_file():
        raise SmaltiError(f"{folder} is no {kind}, so it is not overwritten: choose another folder.")


@contextmanager
def whole_files(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A temporary folder to write files of these names to; where the block ends well, they move into `folder`, in order.

    Missing folders are made.

    Raises:
        SmaltiError: something cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            staged = Path(temporary)
            yield staged
            folder.mkdir(exist_ok=True)
            for name in names:
                (staged / name).replace(folder / name)
    except OSError as error:
        raise SmaltiError(f"The tokenizer cannot be written to {folder}: {error.strerror or error}.") from error
