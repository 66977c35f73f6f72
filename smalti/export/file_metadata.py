"""What files of tokens and files of reduced latents share: writing, and the layout, frame rate and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.files import atomic_write
from smalti.types import Layout


def write_tensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str], content: str) -> None:
    """Write a safetensors file atomically.

    Args:
        file: the file to write or replace.
        tensors: contiguous tensors on the CPU.
        metadata: its metadata.
        content: what the file contains, for the message of an error: "tokens".

    Raises:
        SmaltiError: the file cannot be written.
    """
    try:
        with atomic_write(file) as partial:
            save_file(tensors, partial, metadata)
    except (OSError, SafetensorError) as error:
        raise SmaltiError(f"The {content} cannot be written to {file}: {error}.") from error


def origin_metadata(layout: Layout, tokenizer: str, fingerprint: str, rate: Fraction | None) -> dict[str, str]:
    """Return metadata of a safetensors file.

    Args:
        layout: the latent grids, the size and the number of frames.
        tokenizer: what is recorded about the place of the tokenizer.
        fingerprint: fingerprint of its weights.
        rate: frame rate of a clip in frames per second; None for an image.
    """
    return {
        "grids": json.dumps(layout.grids),
        "size": json.dumps(layout.size),
        "frames": json.dumps(layout.frames),
        "tokenizer": tokenizer,
        "fingerprint": fingerprint,
        **({} if rate is None else {"rate": str(rate)}),
    }


def read_layout(metadata: Mapping[str, str]) -> Layout:
    """Return the layout in the metadata of a file.

    Raises:
        KeyError, TypeError, ValueError: the metadata are incomplete or damaged.
    """
    grids = tuple((t, h, w) for t, h, w in json.loads(metadata["grids"]))
    height, width = json.loads(metadata["size"])
    return Layout(grids=grids, size=(height, width), frames=json.loads(metadata["frames"]))


def read_rate(metadata: Mapping[str, str]) -> Fraction | None:
    """Return the frame rate in the metadata of a file; None for an image.

    Raises:
        ValueError, ZeroDivisionError: it is no number.
    """
    return Fraction(metadata["rate"]) if "rate" in metadata else None
