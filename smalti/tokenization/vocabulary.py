"""Storing ids of a language model instead of the ids of the tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from smalti.errors import SmaltiError
from smalti.eval.protocols import Protocol
from smalti.export.vocabulary import VisualVocabulary
from smalti.export.vocabulary.manifest_file import dumps, load_vocabulary
from smalti.export.vocabulary.new_vocabulary import check_fits
from smalti.tokenizers.tokenizer import Tokenizer


def open_vocabulary(file: Path, fingerprint: str) -> VisualVocabulary:
    """Read a vocabulary.

    Args:
        file: `visual_vocab.json`, or its folder.
        fingerprint: fingerprint of the tokenizer whose ids it maps.

    Raises:
        SmaltiError: the file is no vocabulary, or that of another tokenizer.
    """
    vocabulary = load_vocabulary(file)
    if vocabulary.tokenizer not in (None, fingerprint):
        raise SmaltiError(
            f"{file} is the vocabulary of another tokenizer ({vocabulary.tokenizer[:12]}, not {fingerprint[:12]}): "
            "make one for this tokenizer with `smalti vocabulary`."
        )
    return vocabulary


def check_vocabulary(vocabulary: VisualVocabulary, tokenizer: Tokenizer, protocols: Sequence[Protocol]) -> None:
    """Check that a vocabulary has the codebooks of a tokenizer and takes the grids of its samples.

    Args:
        vocabulary: the vocabulary.
        tokenizer: the tokenizer.
        protocols: how samples are prepared. The grids of those without a fixed size are not known.

    Raises:
        SmaltiError: it is for other codebooks or grids.
    """
    check_fits(vocabulary, tokenizer)
    for protocol in protocols:
        if protocol.crop is not None:
            layout = tokenizer.layout((protocol.crop, protocol.crop), protocol.frames)
            vocabulary.grid.check(vocabulary.layout_grid(layout))


def digest_vocabulary(vocabulary: VisualVocabulary) -> str:
    """Return the SHA-256 of a vocabulary, 64 hexadecimal digits."""
    return hashlib.sha256(dumps(vocabulary).encode()).hexdigest()


def restore_shape(vocabulary: VisualVocabulary, sequence: np.ndarray) -> np.ndarray:
    """Return the sequence of a sample in the shape that `VisualVocabulary.decode` takes.

    Parquet and Megatron store sequences of several ids per step flat, in C order.

    Args:
        vocabulary: the vocabulary.
        sequence: ids of any shape.
    """
    entries = len(vocabulary.codes.entries)
    if vocabulary.layout == "flat":
        return sequence.ravel()
    return sequence.reshape((-1, entries) if vocabulary.layout == "depth" else (entries, -1))
