"""Reduced latents in files: what `smalti reduce` writes.

A file is a safetensors file with `tokens` (t, M, D), `lengths` (t,), and, if the reducer has them, `assignment` (t, N),
`indices` (t, M) and `sizes` (t, M), for the t time steps of a clip (1 for an image). Tensors of a second latent grid have
names that end in "_1", and so on. The metadata are the layout, the configuration of the reducer, and the tokenizer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from safetensors import SafetensorError, safe_open

from smalti.errors import SmaltiError
from smalti.export.file_metadata import origin_metadata, read_layout, read_rate, write_tensors
from smalti.reducers import Reduced
from smalti.tokenizers.configurable import Config
from smalti.types import Layout

FORMAT = "smalti-reduced"
FORMAT_VERSION = 1
_FIELDS = ("tokens", "lengths", "assignment", "indices", "sizes")


@dataclass(frozen=True)
class ReducedFile:
    """The content of a file.

    Attributes:
        reduced: one result per latent grid. The time steps of a grid are its batch.
        layout: the layout of the latents that were reduced.
        reducer: configuration of the reducer.
        tokenizer: the tokenizer that made the latents: see `smalti.export.token_files.portable_path`.
        fingerprint: fingerprint of its weights.
        rate: frame rate of a clip in frames per second; None for an image.
    """

    reduced: list[Reduced]
    layout: Layout
    reducer: Config
    tokenizer: str
    fingerprint: str
    rate: Fraction | None = None


def save_reduced(file: Path, content: ReducedFile) -> None:
    """Write a file atomically.

    Raises:
        SmaltiError: the file cannot be written.
    """
    tensors = {}
    for index, part in enumerate(content.reduced):
        for field in _FIELDS:
            value = getattr(part, field)
            if value is not None:
                tensors[_name(field, index)] = value.detach().cpu().contiguous()
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        **origin_metadata(content.layout, content.tokenizer, content.fingerprint, content.rate),
        "reducer": json.dumps(content.reducer),
    }
    write_tensors(file, tensors, metadata, "reduced latents")


def load_reduced(file: Path) -> ReducedFile:
    """Read a file.

    Raises:
        SmaltiError: the file does not exist, is damaged, or was not written by `smalti reduce`.
    """
    if not file.is_file():
        raise SmaltiError(f"There is no file {file}: pass a file that `smalti reduce` wrote.")
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
        if metadata.get("format") != FORMAT:
            raise SmaltiError(f"{file} has no reduced latents: pass a file that `smalti reduce` wrote.")
        if metadata.get("format_version") != str(FORMAT_VERSION):
            raise SmaltiError(
                f"{file} has format version {metadata.get('format_version')}: install a newer version of smalti."
            )
        layout = read_layout(metadata)
        reduced = [
            Reduced(**{field: tensors.get(_name(field, index)) for field in _FIELDS})  # pyright: ignore
            for index in range(len(layout.grids))
        ]
        if any(part.tokens is None or part.lengths is None for part in reduced):
            raise ValueError("tokens")
        return ReducedFile(
            reduced,
            layout,
            json.loads(metadata["reducer"]),
            metadata["tokenizer"],
            metadata["fingerprint"],
            read_rate(metadata),
        )
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        raise SmaltiError(f"{file} is damaged ({error}): reduce again.") from error


def _name(field: str, index: int) -> str:
    return field if index == 0 else f"{field}_{index}"
