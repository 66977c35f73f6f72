"""Reading all tokens of a folder as one array."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from smalti.errors import SmaltiError
from smalti.export.token_files import load_tokens as load_token_file
from smalti.folders import find_files
from smalti.tokenization.token_dataset import TokenDataset
from smalti.tokenization.units import MANIFEST
from smalti.types import TokenGrid


def load_tokens(path: str | Path) -> np.ndarray:
    """Return the tokens of a token file, of a folder of token files in the order of their names, or of a token dataset.

    Args:
        path: what `smalti tokenize` or `smalti tokenize-dataset` wrote.

    Returns:
        (B, N, G) int64 ids: B samples, N positions, G tokens per position; for a token dataset, see
        `TokenDataset.to_array`.

    Raises:
        SmaltiError: there are no tokens, samples have different sizes, or files were made by different tokenizers.
    """
    path = Path(path)
    if (path / MANIFEST).is_file():
        return TokenDataset(path).to_array()
    files = find_files(path, {".safetensors"}) if path.is_dir() else [path]
    if not files:
        raise SmaltiError(f"The folder {path} contains no token files (.safetensors): tokenize images to it.")
    contents = [load_token_file(file) for file in files]
    for file, content in zip(files, contents, strict=True):
        if content.fingerprint != contents[0].fingerprint:
            raise SmaltiError(f"{file} was made by another tokenizer than {files[0]}: keep them in separate folders.")
        if content.tokens.layout() != contents[0].tokens.layout():
            clips = content.tokens.frames is not None
            raise SmaltiError(
                f"{file} is of {_describe(content.tokens)} and {files[0]} of {_describe(contents[0].tokens)}, which no "
                f"array holds: tokenize with one size, such as --protocol {'clip17x256' if clips else 'square256'}."
            )
    return np.concatenate([content.tokens.ids.numpy() for content in contents])


def _describe(tokens: TokenGrid) -> str:
    height, width = tokens.size
    frames = "" if tokens.frames is None else f"{tokens.frames} frames of "
    return f"{frames}{width} x {height} pixels"
