"""Output files of commands: planning their paths, processing one file or many with progress, and listing them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.errors import SmaltiError
from smalti.extensions import import_options
from smalti.files import check_writable

if TYPE_CHECKING:
    from smalti.cli.progress import ProgressDisplay
    from smalti.tokenizers.tokenizer import Tokenizer


class StopError(SmaltiError):
    """An error of one file for which `process_files` stops: the result of all files is impossible."""


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
            raise SmaltiError(
                f"{file} is not a valid name for {self.name}: choose a name that ends in {self.suffix}, or a folder that "
                "exists."
            )


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
        SmaltiError: `out` has the wrong suffix, is a file instead of a folder, or cannot be written; or a result exists
            and `overwrite` is False.
    """
    if source.is_dir():
        pairs = _plan_folder(source, files, out, kind)
    else:
        result_kind = kind(source)
        result = out / f"{source.stem}{result_kind.suffix}" if out.is_dir() else out
        result_kind.check_suffix(result)
        pairs = [(source, result)]
    check_writable(out if source.is_dir() else pairs[0][1].parent)
    for _, result in pairs:
        _check_absent(result, overwrite=overwrite)
    return pairs


def check_new_file(file: Path, *, overwrite: bool) -> None:
    """Check that a file can be written.

    Raises:
        SmaltiError: its folder cannot be written, or it exists and `overwrite` is False.
    """
    check_writable(file.parent)
    _check_absent(file, overwrite=overwrite)


def process_files(
    pairs: list[tuple[Path, Path]],
    description: str,
    process: Callable[[Path, Path, ProgressDisplay], str],
    out: Path,
    finish: Callable[[], str] | None = None,
) -> None:
    """Process every pair, show progress, and print what was written. A file that fails does not stop the others.

    A `StopError` stops all of them, and `finish` is not called.

    Args:
        pairs: (file, result) each, as `plan_outputs` returns them.
        description: what is done, for the progress display if there are several files.
        process: processes one pair, and returns a description of the result. It may show tasks of its own.
        out: the file or folder that the results were written to.
        finish: called after the last pair, unless all have failed: writes what the pairs have in common, and returns a
            description of it, which is printed instead of the number of files.

    Raises:
        SmaltiError: the only file cannot be processed; or, after all others are done, some files were skipped.
    """
    from smalti.cli.progress import ProgressDisplay

    if len(pairs) == 1 and finish is None:
        ((file, result),) = pairs
        with ProgressDisplay() as progress:
            text = process(file, result, progress)
        print(f"{result}: {text}")
        return
    failures: list[str] = []
    with ProgressDisplay() as progress, progress.task(description, len(pairs), "files") as update:
        for done, (file, result) in enumerate(pairs, start=1):
            try:
                process(file, result, progress)
            except StopError:
                raise
            except SmaltiError as error:
                failures.append(str(error))
                progress.message(f"Skipped: {error}")
            update(done)
    written = len(pairs) - len(failures)
    if written:
        described = f"{written} {'file' if written == 1 else 'files'} written" if finish is None else finish()
        print(f"{out}: {described}")
    if failures:
        skipped = f"{len(failures)} of {len(pairs)} files {'was' if len(failures) == 1 else 'were'} skipped"
        raise SmaltiError(f"{skipped}; the first error: {failures[0]}")


def print_example(tokenizer: Tokenizer, folder: Path) -> None:
    """Print how to look at a reconstruction by an exported tokenizer of photos or videos."""
    if "rgb" not in tokenizer.channels or len(tokenizer.channels) > 1:
        return
    name, suffix = ("video.mp4", ".mp4") if tokenizer.encoder.stride[0] > 1 else ("photo.jpg", ".png")
    print_next("To try it", "reconstruct", name, "--out", f"reconstruction{suffix}", "--tokenizer", folder)


def print_next(purpose: str, *words: object) -> None:
    """Print a command to type next.

    Args:
        purpose: what the command is for, such as "To decode them".
        words: the words of the command after `smalti`. They are quoted where the shell requires it.
    """
    print(f"{purpose}: {shlex.join(['smalti', *map(str, words), *import_options()])}")


def print_files(folder: Path) -> None:
    """Print the files of a folder and their sizes."""
    for file in sorted(folder.iterdir()):
        print(f"{file}  ({file.stat().st_size / 2**20:.2f} MiB)")


def _check_absent(file: Path, *, overwrite: bool) -> None:
    if file.exists() and not overwrite:
        raise SmaltiError(f"{file} already exists: choose another --out, or pass --overwrite.")


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
