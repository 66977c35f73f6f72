"""Token files: what `smalti tokenize` writes and `smalti detokenize` reads.

A token file is a safetensors file with one tensor: `ids` (B, N, G), in the smallest unsigned type that can represent the
codebook, or `packed` (B, N, bytes), the bits of each position without unused ones (see `packed_bits`). Its metadata are the
layout that leads back to pixels, the frame rate of a clip, and the name and the fingerprint of the tokenizer.

Shapes: B batch; N positions; G tokens per position.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from smalti.errors import SmaltiError
from smalti.export.file_metadata import origin_metadata, read_layout, read_rate, write_tensors
from smalti.export.id_types import smallest_id_type
from smalti.export.packed_bits import bits_per_id, pack_positions, unpack_positions
from smalti.types import TokenGrid

FORMAT = "smalti-tokens"
FORMAT_VERSION = 1
PACKED_FORMAT_VERSION = 2
"""Version of files with packed ids, which earlier versions of this package cannot read."""


@dataclass(frozen=True)
class TokenFile:
    """The content of a token file.

    Attributes:
        tokens: the ids and their layout.
        tokenizer: the tokenizer that made them: its path relative to the folder of the token file, or only its name. See
            `portable_path`. Files of earlier versions contain an absolute path.
        fingerprint: fingerprint of the weights of that tokenizer.
        rate: frame rate of a clip in frames per second; None for an image.
        names: names of the files that the samples come from; None for a single sample.

    Raises:
        ValueError: a clip has no frame rate, an image has one, or there are not as many names as samples.
    """

    tokens: TokenGrid
    tokenizer: str
    fingerprint: str
    rate: Fraction | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.names is not None and len(self.names) != len(self.tokens.ids):
            raise ValueError(f"There are {len(self.names)} names for {len(self.tokens.ids)} samples.")
        if (self.tokens.frames is None) != (self.rate is None):
            raise ValueError("A clip needs a frame rate, and an image must not have one.")


def portable_path(tokenizer: Path, folder: Path) -> str:
    """Return what a token file records about the place of its tokenizer: nothing outside of the working directory.

    Args:
        tokenizer: path of the tokenizer.
        folder: folder of the token file.

    Returns:
        The path of the tokenizer relative to `folder` if both are in the working directory, else only its name.
    """
    here, tokenizer, folder = Path.cwd().resolve(), tokenizer.resolve(), folder.resolve()
    if tokenizer.is_relative_to(here) and folder.is_relative_to(here):
        return Path(os.path.relpath(tokenizer, folder)).as_posix()
    return tokenizer.name


def save_tokens(file: Path, content: TokenFile, codebook_size: int, *, pack: bool = False) -> None:
    """Write a token file atomically.

    Args:
        file: the file to write or replace.
        content: its content.
        codebook_size: number of values of a token, which determines the type of the ids.
        pack: whether to store the ids without unused bits: 18 bits take 18 bits instead of 32.

    Raises:
        SmaltiError: the file cannot be written.
    """
    tokens = content.tokens
    if pack:
        bits = bits_per_id(codebook_size)
        tensors = {"packed": pack_positions(tokens.ids.cpu(), bits).contiguous()}
        packing = {"packed_bits": str(bits), "tokens_per_position": str(tokens.ids.shape[-1])}
    else:
        tensors = {"ids": tokens.ids.cpu().to(getattr(torch, smallest_id_type(codebook_size))).contiguous()}
        packing = {}
    metadata = {
        "format": FORMAT,
        "format_version": str(PACKED_FORMAT_VERSION if pack else FORMAT_VERSION),
        **origin_metadata(tokens.layout(), content.tokenizer, content.fingerprint, content.rate),
        "codebook_size": str(codebook_size),
        **({} if content.names is None else {"names": json.dumps(content.names)}),
        **packing,
    }
    write_tensors(file, tensors, metadata, "tokens")


def load_tokens(file: Path) -> TokenFile:
    """Read a token file. The ids are int64.

    Raises:
        SmaltiError: the file does not exist, is damaged, or is no token file of Smalti.
    """
    with _open_token_file(file) as (content, metadata):
        stored = content.get_tensor(_tensor_name(metadata))
    try:
        ids = stored.long() if _tensor_name(metadata) == "ids" else _unpack(stored, metadata)
        layout = read_layout(metadata)
        tokens = TokenGrid(ids=ids, grids=layout.grids, size=layout.size, frames=layout.frames)
        if ids.ndim != 3 or ids.shape[1] != tokens.positions:
            raise ValueError(f"ids {tuple(ids.shape)} for {tokens.positions} positions")
        rate = read_rate(metadata)
        names = tuple(json.loads(metadata["names"])) if "names" in metadata else None
        return TokenFile(tokens, metadata["tokenizer"], metadata["fingerprint"], rate, names)
    except (KeyError, ValueError, TypeError, ZeroDivisionError, SmaltiError) as error:
        raise SmaltiError(f"{file} is damaged (its metadata are incomplete or invalid): tokenize again.") from error


def is_clip(file: Path) -> bool:
    """Return whether a token file contains a clip and not an image, without reading the ids.

    Raises:
        SmaltiError: see `load_tokens`.
    """
    with _open_token_file(file) as (_, metadata):
        return "rate" in metadata


def check_origin(file: Path, fingerprint: str, size: tuple[int, int] | None = None, frames: int | None = None) -> None:
    """Check that a token file is complete, and was made by a tokenizer, without reading the ids.

    Args:
        file: the token file.
        fingerprint: fingerprint of the tokenizer.
        size: expected height and width in pixels; None for any.
        frames: expected number of frames; None for any.

    Raises:
        SmaltiError: it was made by another tokenizer, or from another size; see also `load_tokens`.
    """
    with _open_token_file(file) as (_, metadata):
        if metadata.get("fingerprint") != fingerprint:
            raise SmaltiError(
                f"{file} was made by another tokenizer ({metadata.get('fingerprint', '')[:12]}, not {fingerprint[:12]}): "
                "choose another --out, or replace it with --overwrite."
            )
        for name, value in (("size", size), ("frames", frames)):
            expected, found = json.dumps(value), metadata.get(name)
            if value is not None and found != expected:
                raise SmaltiError(
                    f"{file} was made with another protocol ({name} {found}, not {expected}): choose another --out, or "
                    "replace it with --overwrite."
                )


@contextmanager
def _open_token_file(file: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """Open and check a token file. Yields the open safetensors file and its metadata."""
    if not file.is_file():
        raise SmaltiError(f"There is no token file {file}.")
    try:
        with safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise SmaltiError(f"{file} is no token file: pass a file that `smalti tokenize` wrote.")
            version = metadata.get("format_version")
            if version not in (str(FORMAT_VERSION), str(PACKED_FORMAT_VERSION)):
                raise SmaltiError(f"{file} has format version {version}: install a newer version of smalti.")
            if _tensor_name(metadata) not in content.keys():  # noqa: SIM118 (not a mapping)
                raise SmaltiError(f"{file} is no token file: pass a file that `smalti tokenize` wrote.")
            yield content, metadata
    except (SafetensorError, OSError) as error:
        raise SmaltiError(f"{file} is damaged or is no safetensors file ({error}): tokenize again.") from error


def _tensor_name(metadata: dict[str, str]) -> str:
    return "packed" if metadata["format_version"] == str(PACKED_FORMAT_VERSION) else "ids"


def _unpack(packed: torch.Tensor, metadata: dict[str, str]) -> torch.Tensor:
    return unpack_positions(packed, int(metadata["packed_bits"]), int(metadata["tokens_per_position"]))
