"""From codes to the ids of a sequence and back: the arithmetic of a visual vocabulary, without checks of its input.

Shapes: K codes and J entries per position; S steps of a sequence.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from smalti.errors import SmaltiError
from smalti.export.vocabulary import layouts
from smalti.export.vocabulary.bit_order import Ints, join_codes, split_codes
from smalti.export.vocabulary.grammar import CODE, Grid

if TYPE_CHECKING:
    from smalti.export.vocabulary.manifest import VisualVocabulary


def arrange(vocabulary: VisualVocabulary, codes: Ints, grid: Grid) -> Ints:
    """Return the ids of valid codes (*grid, K) in the layout of the vocabulary, without the grammar."""
    entries = layouts.to_patches(codes, vocabulary.grid.patch).reshape(math.prod(grid), -1)
    parts = vocabulary.codes
    if parts.split_bits is not None:
        entries = split_codes(entries, parts.sizes, parts.split_bits, parts.order)
    ids = entries + _first_ids(vocabulary)
    match vocabulary.layout:
        case "flat":
            return ids.reshape(-1)
        case "depth":
            return ids
        case "codebook-major" | "factorized":
            return np.ascontiguousarray(ids.T)
        case "delayed":
            return layouts.delay(ids, vocabulary.delays or (), _fill(vocabulary))
        case "coarse-first":
            return layouts.coarse_first(ids, _fill(vocabulary))
        case "unrolled":
            return layouts.unroll(ids, _fill(vocabulary))


def collect(vocabulary: VisualVocabulary, ids: Ints, grid: Grid) -> Ints:
    """Invert `arrange`.

    Raises:
        SmaltiError: the sequence has another number of positions than the grid, an id is no code of its codebook, or a fill
            id is missing.
    """
    match vocabulary.layout:
        case "flat":
            ids = ids.reshape(-1, len(vocabulary.strides))
        case "depth":
            pass
        case "codebook-major" | "factorized":
            ids = ids.T
        case "delayed":
            ids = layouts.undelay(ids, vocabulary.delays or (), _fill(vocabulary))
        case "coarse-first":
            ids = layouts.invert_coarse_first(ids, _fill(vocabulary))
        case "unrolled":
            ids = layouts.invert_unroll(ids, _fill(vocabulary))
    if ids.shape != (math.prod(grid), len(vocabulary.strides)):
        raise SmaltiError(
            f"The sequence has {ids.shape[0]} positions of {ids.shape[1]} ids, but the grid {grid} has "
            f"{math.prod(grid)} of {len(vocabulary.strides)}: pass its own grid."
        )
    for j, (low, high) in enumerate(vocabulary.ranges):
        wrong = (ids[:, j] < low) | (ids[:, j] > high)
        if wrong.any():
            position = int(wrong.argmax())
            raise SmaltiError(
                f"Position {position} has the id {ids[position, j]}, but its codes have the ids {low} to {high}: the "
                "sequence is damaged, or is one of another vocabulary."
            )
    entries, parts = ids - _first_ids(vocabulary), vocabulary.codes
    if parts.split_bits is not None:
        entries = join_codes(entries, parts.sizes, parts.split_bits, parts.order)
    return layouts.from_patches(entries.reshape(*grid, -1), vocabulary.grid.patch)


def fill_template(vocabulary: VisualVocabulary, template: Ints, ids: Ints) -> Ints:
    """Put the ids of codes into a template of a flat or depth sequence; other layouts have no template."""
    if not vocabulary.has_grammar:
        return ids
    if vocabulary.layout == "depth":
        template = np.repeat(template[:, None], len(vocabulary.strides), axis=1)
    sequence = template.copy()
    sequence[template == CODE] = ids.reshape(-1)
    return sequence


def read_template(vocabulary: VisualVocabulary, template: Ints, sequence: Ints) -> Ints:
    """Invert `fill_template`.

    Raises:
        SmaltiError: the length is wrong, or the grammar is violated.
    """
    if not vocabulary.has_grammar:
        return sequence
    if len(sequence) != len(template):
        raise SmaltiError(
            f"The sequence has {len(sequence)} tokens, but its grid needs {len(template)}: it is cut or damaged."
        )
    expected = template if vocabulary.layout == "flat" else template[:, None]
    wrong = (expected != CODE) & (sequence != expected)
    if wrong.any():
        step = int(np.argwhere(wrong)[0, 0])
        raise SmaltiError(
            f"Token {step} of the sequence is {sequence[step]}, but the grammar needs {template[step]} there: the "
            "sequence is damaged."
        )
    return sequence[template == CODE]


def _first_ids(vocabulary: VisualVocabulary) -> Ints:
    """Return the id of code 0 of each entry, (J,)."""
    return vocabulary.offset + np.asarray(vocabulary.strides, dtype=np.int64)


def _fill(vocabulary: VisualVocabulary) -> int:
    assert vocabulary.fill is not None  # manifest_checks
    return vocabulary.fill
