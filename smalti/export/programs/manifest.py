"""`programs.json`: the contract of the programs in a folder, and the files that belong to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smalti.errors import SmaltiError
from smalti.export.programs.contract import Contract
from smalti.files import sha256

MANIFEST = "programs.json"
FORMAT, FORMAT_VERSION = "smalti-programs", 1


def manifest_content(contract: Contract, fingerprint: str, folder: Path, files: list[str]) -> dict[str, Any]:
    """Return the content of `programs.json`.

    Args:
        contract: what the programs take and return.
        fingerprint: SHA-256 of the weights of the tokenizer.
        folder: the folder that contains the files.
        files: names of the programs and of the golden vectors.
    """
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tokenizer_sha256": fingerprint,
        "sizes": "batch >= 1; a clip has 1 + k * stride[0] frames, k >= 0 (an image: k = 0); h, w >= 1 latent positions",
        "contract": contract.to_json(),
        "files": {name: sha256(folder / name) for name in sorted(files)},
    }


def read_manifest(folder: Path) -> tuple[Contract, dict[str, Any]]:
    """Read `programs.json`, and check that the files are those that were exported.

    Raises:
        SmaltiError: the folder has no programs, or a file is missing, damaged or another one.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise SmaltiError(
            f"{folder} has no {MANIFEST}: export programs with `smalti export --format torch` or `--format onnx`."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["format_version"] != FORMAT_VERSION:
            raise SmaltiError(
                f"{file} has the format {content['format']} {content['format_version']}, but this smalti reads {FORMAT} "
                f"{FORMAT_VERSION}: export the tokenizer again."
            )
        contract, files = Contract.from_json(content["contract"]), dict(content["files"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SmaltiError(f"{file} is damaged ({type(error).__name__}): export the tokenizer again.") from error
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise SmaltiError(f"{folder / name} is missing: export the tokenizer again.")
        if sha256(folder / name) != expected:
            raise SmaltiError(f"{folder / name} is not the file that was exported: export the tokenizer again.")
    return contract, content
