"""Writing files whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
