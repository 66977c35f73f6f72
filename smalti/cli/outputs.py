"""What several commands share: the tokenizer and the device to use, files in and out, and progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from rich.progress import Progress



def plan_outputs(
    source: Path, files: list[Path], out: Path, kind: Callable[[Path], FileKind], *, overwrite: bool
) -> list[tuple[Path, Path]]:
    """Where each file's result goes: for one file `out`, for a folder the same tree below `out`.

    Args:
        source: the file or folder that was named.
        files: the file itself, or the folder's.
        out: the file or folder to write.
        kind: of a file's result; it gives results in a folder their suffix.
        overwrite: whether results that are there may be replaced.

    Returns:
        Pairs (file, result). Files of one folder that differ in their suffix alone keep it in the result's name.

    Raises:
        SmaltiError: `out` is of the wrong kind, or a result is there already.
    """
    if not source.is_dir():
        made = kind(source)
        target = out / f"{source.stem}{made.suffix}" if out.is_dir() else out
        made.check(target)
        pairs = [(source, target)]
    else:
        if out.is_file():
            raise SmaltiError(f"{out} is a file, but a folder's results need a folder: choose another --out.")
        stems = [file.relative_to(source).with_suffix("") for file in files]
        shared = Counter(stems)
        pairs = [
            (file, out / stem.parent / f"{file.name if shared[stem] > 1 else stem.name}{kind(file).suffix}")
            for file, stem in zip(files, stems, strict=True)
        ]
    for _, target in pairs:
        if target.exists() and not overwrite:
            raise SmaltiError(f"{target} is there already: choose another --out, or pass --overwrite.")
    return pairs


def console():  # noqa: ANN201 (rich is imported only when it is used)
    """Where progress is shown: standard error, so that standard output stays clean."""
    from rich.console import Console

    return Console(stderr=True)


def process_each(pairs: list[tuple[Path, Path]], what: str, work: Callable[[Path, Path, Progress], None]) -> None:
    """Do the work for every pair; a file that cannot be read does not stop the others.

    Args:
        pairs: a file and its result, each.
        what: is done, for the progress bar of several files, which tells the time left.
        work: does one; it may add a bar of its own to the progress.

    Raises:
        SmaltiError: at the end, where some could not be read; it names them.
    """
    from rich.progress import Progress

    failures: list[str] = []
    with Progress(console=console(), transient=True) as progress:
        if len(pairs) == 1:
            work(*pairs[0], progress)
            return
        for file, target in progress.track(pairs, description=what):
            try:
                work(file, target, progress)
            except SmaltiError as error:
                failures.append(str(error))
                progress.console.print(f"[yellow]Skipped:[/yellow] {error}", highlight=False)
    if failures:
        raise SmaltiError(f"{len(failures)} of {len(pairs)} files were skipped; the others are done. {failures[0]}")



@dataclass(frozen=True)
class FileKind:
    """A kind of file that is written.

    Attributes:
        name: with its article.
        suffix: what it is given in a folder, with its dot.
        others: further suffixes that a single file may have.
    """

    name: str
    suffix: str
    others: frozenset[str] = frozenset()

    def check(self, file: Path) -> None:
        """Refuse a name that says another kind.

        Raises:
            SmaltiError: it does.
        """
        if file.suffix.lower() not in self.others | {self.suffix}:
            raise SmaltiError(f"{file} is no name for {self.name}: choose one that ends in {self.suffix}.")
