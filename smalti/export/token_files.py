"""Token files: what `smalti tokenize` writes and `smalti detokenize` reads.

A safetensors file with one tensor, `ids` (B, N, G), in the smallest unsigned type that holds the codebook, and metadata:
the layout to come back to pixels, the frame rate of a clip, and the tokenizer that made them with its fingerprint.

Shapes: B batch, N positions, G tokens a position.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from smalti.errors import SmaltiError
from smalti.files import atomic_write
from smalti.types import TokenGrid

FORMAT = "smalti-tokens"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class TokenFile:
    """What a token file holds.

    Attributes:
        tokens: the ids and their layout.
        tokenizer: path of the tokenizer that made them, as it was given.
        fingerprint: of that tokenizer's weights.
        rate: frames a second of a clip; None: an image.

    Raises:
        ValueError: a clip without a rate, or an image with one.
    """

    tokens: TokenGrid
    tokenizer: str
    fingerprint: str
    rate: Fraction | None = None

    def __post_init__(self) -> None:
        if (self.tokens.frames is None) != (self.rate is None):
            raise ValueError("A clip has a frame rate, and an image has none.")


def save_tokens(file: Path, content: TokenFile, codebook_size: int) -> None:
    """Write a token file, whole or not at all.

    Raises:
        SmaltiError: the file cannot be written.
    """
    tokens = content.tokens
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "grids": json.dumps(tokens.grids),
        "size": json.dumps(tokens.size),
        "frames": json.dumps(tokens.frames),
        "codebook_size": str(codebook_size),
        "tokenizer": content.tokenizer,
        "fingerprint": content.fingerprint,
        **({} if content.rate is None else {"rate": str(content.rate)}),
    }
    try:
        with atomic_write(file) as partial:
            save_file({"ids": tokens.ids.cpu().to(_smallest_type(codebook_size)).contiguous()}, partial, metadata)
    except (OSError, SafetensorError) as error:
        raise SmaltiError(f"The tokens cannot be written to {file}: {error}.") from error


def load_tokens(file: Path) -> TokenFile:
    """Read a token file; its ids are int64 again.

    Raises:
        SmaltiError: missing, damaged, or not a token file of smalti.
    """
    with _opened(file) as (content, metadata):
        ids = content.get_tensor("ids").long()
    try:
        grids = tuple((t, h, w) for t, h, w in json.loads(metadata["grids"]))
        height, width = json.loads(metadata["size"])
        frames, rate = json.loads(metadata["frames"]), metadata.get("rate")
        tokens = TokenGrid(ids=ids, grids=grids, size=(height, width), frames=frames)
        if ids.ndim != 3 or ids.shape[1] != tokens.positions:
            raise ValueError(f"ids {tuple(ids.shape)} for {tokens.positions} positions")
        exact = None if rate is None else Fraction(rate)
        return TokenFile(tokens, metadata["tokenizer"], metadata["fingerprint"], exact)
    except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        raise SmaltiError(f"{file} is damaged (its metadata are not whole): tokenize again.") from error


def holds_clip(file: Path) -> bool:
    """Whether a token file holds a clip, not an image; its ids are not read.

    Raises:
        SmaltiError: as `load_tokens`.
    """
    with _opened(file) as (_, metadata):
        return "rate" in metadata


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A token file that is open, and its metadata."""
    if not file.is_file():
        raise SmaltiError(f"There is no token file {file}.")
    try:
        with safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
            if metadata.get("format") != FORMAT or "ids" not in content.keys():  # noqa: SIM118 (no mapping)
                raise SmaltiError(f"{file} is no token file: `smalti tokenize` writes them.")
            version = metadata.get("format_version")
            if version != str(FORMAT_VERSION):
                raise SmaltiError(f"{file} is of format version {version}: install a newer smalti.")
            yield content, metadata
    except (SafetensorError, OSError) as error:
        raise SmaltiError(f"{file} is damaged or is no safetensors file ({error}): tokenize again.") from error


def _smallest_type(codebook_size: int) -> torch.dtype:
    """The smallest type that holds every id: 4 x 8 bits a position then are 4 bytes, and no id wraps."""
    for dtype, values in ((torch.uint8, 2**8), (torch.uint16, 2**16), (torch.uint32, 2**32)):
        if codebook_size <= values:
            return dtype
    return torch.int64
