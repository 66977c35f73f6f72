"""What several commands share: the tokenizer and the device to use, files in and out, and progress."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.errors import SmaltiError

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from smalti.commands.media import Kind
    from smalti.tokenizers.tokenizer import Tokenizer

TOKENIZER_VARIABLE = "SMALTI_TOKENIZER"


def add_tokenizer(parser: argparse.ArgumentParser, *, fallback: str = "") -> None:
    """Give a command `--tokenizer`, `--device` and `--tile`."""
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=Path(os.environ[TOKENIZER_VARIABLE]) if os.environ.get(TOKENIZER_VARIABLE) else None,
        help=f"an exported folder or a .ckpt file; else {fallback}the environment variable {TOKENIZER_VARIABLE}",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto takes a GPU where there is one")
    parser.add_argument(
        "--tile",
        type=int,
        help="code frames in tiles of so many pixels a side, overlapping by a quarter: for frames too large for the memory",
    )


def add_path(parser: argparse.ArgumentParser) -> None:
    """Give a command `--as`, which `open_tokenizer` takes as `path`."""
    parser.add_argument(
        "--as",
        dest="path",
        choices=("discrete", "continuous"),
        help="the path to take of a joint tokenizer, which has both (discrete)",
    )


def add_files(parser: argparse.ArgumentParser, inputs: str, outputs: str) -> None:
    """Give a command its input, `--out` and `--overwrite`."""
    parser.add_argument("input", type=Path, help=inputs)
    parser.add_argument("--out", "-o", type=Path, required=True, help=outputs)
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def open_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        SmaltiError: no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise SmaltiError(f"There is no device '{name}' on this machine ({str(error).splitlines()[0]}).") from error


def open_tokenizer(
    file: Path | None, device: torch.device, path: str | None = None, tile: int | None = None
) -> Tokenizer:
    """Load the tokenizer that `--tokenizer` names.

    Args:
        file: an exported folder, or a checkpoint.
        device: where to put it.
        path: "discrete" or "continuous", of a joint tokenizer; None: the tokenizer as it is.
        tile: pixels a side, in which it codes frames; None: frames whole.

    Raises:
        SmaltiError: none is named, it cannot be loaded, it has no such path, or a tile is no multiple of its stride.
    """
    from smalti.tokenizers.checkpoints import load

    if file is None:
        raise SmaltiError(f"No tokenizer is named: pass --tokenizer DIR, or set {TOKENIZER_VARIABLE}.")
    tokenizer = load(file, device)
    if path is not None:
        tokenizer = tokenizer.as_discrete() if path == "discrete" else tokenizer.as_continuous()
    if tile is not None:
        stride = tokenizer.encoder.stride[1]
        tokenizer = tokenizer.tiled(tile, overlap=-(-tile // (4 * stride)) * stride)
    return tokenizer


def plan(
    source: Path, files: list[Path], out: Path, kind: Callable[[Path], Kind], *, overwrite: bool
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


def each(pairs: list[tuple[Path, Path]], what: str, work: Callable[[Path, Path, Progress], None]) -> None:
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
