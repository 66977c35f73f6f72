"""Loading the programs of a folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from smalti.errors import SmaltiError
from smalti.export.programs.manifest import read_manifest
from smalti.export.programs.runner import Programs
from smalti.export.programs.runtimes import RUNTIMES


def load_programs(folder: str | Path, kind: str | None = None, *, check: bool = True) -> Programs:
    """Load the programs of a folder, which run without the classes of the tokenizer.

    Args:
        folder: folder that `smalti export --format torch` or `--format onnx` wrote.
        kind: "onnx", "compiled" or "torch"; None for the first of these that the folder has.
        check: whether to compare the programs with their golden vectors, which takes a few runs.

    Raises:
        SmaltiError: the folder has no such programs, a file is damaged, or the golden vectors are not reproduced.
        MissingExtraError: onnxruntime is not installed.
    """
    folder = Path(folder)
    contract, content = read_manifest(folder)
    kinds = program_kinds(content["files"])
    if kind is None:
        kind = kinds[0]
    if kind not in kinds:
        raise SmaltiError(f"{folder} has no programs of the kind '{kind}': choose one of {', '.join(kinds)}.")
    programs = Programs(contract, RUNTIMES[kind][1](folder), folder)
    if check:
        programs.check()
    return programs


def program_kinds(files: Collection[str]) -> list[str]:
    """Return the kinds of programs among names of files, in the order of `RUNTIMES`."""
    return [kind for kind, (suffix, _) in RUNTIMES.items() if f"encoder{suffix}" in files]
