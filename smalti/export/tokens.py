"""Token files: what `smalti tokenize` writes and `smalti detokenize` reads.

A safetensors file with one tensor, `ids` (B, N, G), in the smallest unsigned type that holds the codebook, and metadata:
the layout to come back to pixels, and the tokenizer that made them with its fingerprint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from smalti.errors import SmaltiError
from smalti.files import whole
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
    """

    tokens: TokenGrid
    tokenizer: str
    fingerprint: str


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
    }
    try:
        with whole(file) as partial:
            save_file({"ids": tokens.ids.cpu().to(_smallest_type(codebook_size)).contiguous()}, partial, metadata)
    except (OSError, SafetensorError) as error:
        raise SmaltiError(f"The tokens cannot be written to {file}: {error}.") from error


def load_tokens(file: Path) -> TokenFile:
    """Read a token file; its ids are int64 again.

    Raises:
        SmaltiError: missing, damaged, or not a token file of smalti.
    """
    if not file.is_file():
        raise SmaltiError(f"There is no token file {file}.")
    try:
        with safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
            ids = content.get_tensor("ids") if "ids" in content.keys() else None  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise SmaltiError(
            f"{file} is damaged or is no safetensors file ({error}): tokenize the image again."
        ) from error
    if metadata.get("format") != FORMAT or ids is None:
        raise SmaltiError(f"{file} is no token file: `smalti tokenize` writes them.")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise SmaltiError(f"{file} is of format version {metadata.get('format_version')}: install a newer smalti.")
    try:
        grids = tuple((t, h, w) for t, h, w in json.loads(metadata["grids"]))
        height, width = json.loads(metadata["size"])
        frames = json.loads(metadata["frames"])
        tokens = TokenGrid(ids=ids.long(), grids=grids, size=(height, width), frames=frames)
        return TokenFile(tokens, metadata["tokenizer"], metadata["fingerprint"])
    except (KeyError, ValueError, TypeError) as error:
        raise SmaltiError(f"{file} is damaged (its metadata are not whole): tokenize the image again.") from error


def _smallest_type(codebook_size: int) -> torch.dtype:
    """The smallest type that holds every id: 4 x 8 bits a position then are 4 bytes, and no id wraps."""
    for dtype, values in ((torch.uint8, 2**8), (torch.uint16, 2**16), (torch.uint32, 2**32)):
        if codebook_size <= values:
            return dtype
    return torch.int64
