"""Storing ids of a language model instead of the ids of the tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from smalti.errors import SmaltiError
from smalti.export.vocabulary import VisualVocabulary
from smalti.export.vocabulary.manifest_file import dumps, load_vocabulary


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
