"""Tokens of several files in one token file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import torch

from smalti.cli.media_streams import TOKENS
from smalti.cli.outputs import StopError, check_new_file
from smalti.export.token_files import TokenFile, save_tokens
from smalti.types import TokenGrid


class PackedTokens:
    """Collects the tokens of samples of one size, and writes them to one file.

    Args:
        file: the token file to write.
        tokenizer: what is recorded about the place of the tokenizer.
        fingerprint: fingerprint of its weights.
        codebook_size: number of values of a token.
    """

    def __init__(self, file: Path, tokenizer: str, fingerprint: str, codebook_size: int) -> None:
        self._file = file
        self._tokenizer = tokenizer
        self._fingerprint = fingerprint
        self._codebook_size = codebook_size
        self._names: list[str] = []
        self._tokens: list[TokenGrid] = []
        self._rate: Fraction | None = None

    def add(self, name: str, tokens: TokenGrid, rate: Fraction | None) -> None:
        """Add a sample.

        Args:
            name: name of its file, relative to the folder.
            tokens: ids (1, N, G).
            rate: frames per second of a clip; None for an image.

        Raises:
            StopError: its size, number of frames or frame rate is not that of the first one.
        """
        first = self._tokens[0] if self._tokens else tokens
        if tokens.layout() != first.layout() or (self._tokens and rate != self._rate):
            protocol, needed = (
                ("square256", "one size") if rate is None else ("clip17x256@24", "one size and frame rate")
            )
            raise StopError(
                f"{name} is {_describe(tokens, rate)}, but {self._names[0]} is {_describe(first, self._rate)}, and "
                f"--pack needs {needed}: choose it with --protocol, such as {protocol}."
            )
        self._rate = rate
        self._names.append(name)
        self._tokens.append(tokens)

    def save(self) -> str:
        """Write the file, and return a description of it.

        Raises:
            SmaltiError: the file cannot be written.
        """
        first = self._tokens[0]
        ids = torch.cat([tokens.ids for tokens in self._tokens])
        tokens = TokenGrid(ids=ids, grids=first.grids, size=first.size, frames=first.frames)
        content = TokenFile(tokens, self._tokenizer, self._fingerprint, self._rate, tuple(self._names))
        save_tokens(self._file, content, self._codebook_size)
        return f"{len(ids)} samples, {ids.shape[1]} positions x {ids.shape[2]} tokens each"


def check_packed_file(file: Path, *, overwrite: bool) -> None:
    """Check that a token file can be written.

    Raises:
        SmaltiError: it has another suffix, exists, or cannot be written.
    """
    TOKENS.check_suffix(file)
    check_new_file(file, overwrite=overwrite)


def _describe(tokens: TokenGrid, rate: Fraction | None) -> str:
    height, width = tokens.size
    frames = "" if rate is None else f" with {tokens.frames} frames at {float(rate):.5g} fps"
    return f"{width} x {height}{frames}"
