"""Output files of commands: planning their paths, processing one file or many with progress, and listing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


@dataclass(frozen=True)
class FileKind:
    """A kind of file that commands write.

    Attributes:
        name: name with an article, such as "an image".
        suffix: default suffix, with the dot; results in a folder always get it.
        other_suffixes: other valid suffixes for a single result.
    """

    name: str
    suffix: str
    other_suffixes: frozenset[str] = frozenset()

    def check_suffix(self, file: Path) -> None:
        """Check that a file has a suffix of this kind.

        Raises:
            SmaltiError: it has another suffix.
        """
        if file.suffix.lower() not in self.other_suffixes | {self.suffix}:
            raise SmaltiError(f"{file} is not a valid name for {self.name}: choose a name that ends in {self.suffix}.")


def plan_outputs(
    source: Path, files: list[Path], out: Path, kind: Callable[[Path], FileKind], *, overwrite: bool
) -> list[tuple[Path, Path]]:
    """Choose where to write the result of each file: to `out`, or, for a folder, to the same subfolder of `out`.

    If files in a folder differ only in their suffixes, their results keep the suffixes: a.jpg and a.png become a.jpg.png
    and a.png.png.

    Args:
        source: the input file or folder.
        files: the input file itself, or the files in the folder.
        out: the file or folder to write to.
        kind: function from an input file to the kind of its result.
        overwrite: whether existing results may be replaced.

    Returns:
        Pairs (file, result).

    Raises:
        SmaltiError: `out` has the wrong suffix or is a file instead of a folder; or a result exists and `overwrite` is
            False.
    """
    if source.is_dir():
        pairs = _plan_folder(source, files, out, kind)
    else:
        result_kind = kind(source)
        result = out / f"{source.stem}{result_kind.suffix}" if out.is_dir() else out
        result_kind.check_suffix(result)
        pairs = [(source, result)]
    for _, result in pairs:
        if result.exists() and not overwrite:
            raise SmaltiError(f"{result} already exists: choose another --out, or pass --overwrite.")
    return pairs


def process_files(
    pairs: list[tuple[Path, Path]], description: str, process: Callable[[Path, Path, Progress], None]
) -> None:
    """Process every pair and show progress. A file that cannot be processed does not stop the others.

    Args:
        pairs: (file, result) each, as `plan_outputs` returns them.
        description: text next to the progress bar if there are several files.
        process: processes one pair. It may add its own bar to the progress display.

    Raises:
        SmaltiError: the only file cannot be processed; or, after all others are done, some files were skipped.
    """
    from rich.progress import Progress

    failures: list[str] = []
    with Progress(console=get_console(), transient=True) as progress:
        if len(pairs) == 1:
            process(*pairs[0], progress)
            return
        for file, result in progress.track(pairs, description=description):
            try:
                process(file, result, progress)
            except SmaltiError as error:
                failures.append(str(error))
                progress.console.print(f"[yellow]Skipped:[/yellow] {error}", highlight=False)
    if failures:
        raise SmaltiError(
            f"{len(failures)} of {len(pairs)} files were skipped; the others are done. The first error: {failures[0]}"
        )


def print_files(folder: Path) -> None:
    """Print the files of a folder and their sizes."""
    for file in sorted(folder.iterdir()):
        print(f"{file}  ({file.stat().st_size / 2**20:.2f} MiB)")


def get_console() -> Console:
    """Return a console for progress bars. It writes to standard error, which keeps standard output clean."""
    from rich.console import Console

    return Console(stderr=True)


def _plan_folder(
    source: Path, files: list[Path], out: Path, kind: Callable[[Path], FileKind]
) -> list[tuple[Path, Path]]:
    if out.is_file():
        raise SmaltiError(
            f"{out} is a file, but the results of a folder are written to a folder: choose another --out."
        )
    stems = [file.relative_to(source).with_suffix("") for file in files]
    counts = Counter(stems)
    return [
        (file, out / stem.parent / f"{file.name if counts[stem] > 1 else stem.name}{kind(file).suffix}")
        for file, stem in zip(files, stems, strict=True)
    ]
