"""What several commands share: the tokenizer and the device to use, files in and out, and progress."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.errors import SmaltiError

if TYPE_CHECKING:
    import torch

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
