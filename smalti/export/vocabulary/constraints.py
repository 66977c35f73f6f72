"""Which ids may follow in a sequence, so that a language model generates valid images only.

At every step the allowed ids are one id or a closed range. Both ends are stated: an open upper end would allow the padding
rows of an embedding table. Published code has gaps that this module does not have: Emu3 never ends an image of width 1, and
Lumina-mGPT leaves the size tokens free.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from smalti.errors import SmaltiError
from smalti.export.vocabulary.grammar import CODE, Grid, SizeText, SizeTokens
from smalti.export.vocabulary.manifest import Range, VisualVocabulary

Allowed = tuple[Range, ...]
"""Closed ranges of ids, in ascending order; usually one."""


def allowed_steps(
    vocabulary: VisualVocabulary, grid: Grid, size: Literal["stated", "chosen", "free"] = "stated"
) -> list[Allowed]:
    """Return what is allowed at every step of an image, the first token included.

    Args:
        vocabulary: a vocabulary with flat sequences.
        grid: grid of the image.
        size: "stated": the size is that of the grid; "chosen": every valid size is allowed, and the model chose this grid;
            "free": every id is allowed in place of the size (the published code of Lumina-mGPT).

    Raises:
        SmaltiError: the sequences are not flat, or the grid is not valid.
    """
    steps = list(_steps(vocabulary, tuple(grid)))
    if size == "stated" or vocabulary.grammar.size is None:
        return steps
    sequence = vocabulary.template(grid).tolist()
    for step in range(1, _size_end(vocabulary, grid)):
        if size == "free":
            steps[step] = ((0, vocabulary.rows - 1),)
        else:
            choices = vocabulary.grammar.size.choices(sequence[1:step])
            steps[step] = _ranges(choices or [])
    return steps


def next_allowed(vocabulary: VisualVocabulary, begun: Sequence[int], grid: Grid | None = None) -> Allowed | None:
    """Return what may follow the beginning of an image; None if the image is complete.

    Args:
        vocabulary: a vocabulary with flat sequences.
        begun: ids from the token `begin` on, at least that one.
        grid: grid to force; None: that of the vocabulary, or the one that the sequence states.

    Raises:
        SmaltiError: the sequences are not flat, the grid is unknown, or the sequence states no valid size.
    """
    grid = grid or vocabulary.grid.fixed
    if grid is None:
        begun = list(begun)
        size = vocabulary.grammar.size
        if size is None:
            raise SmaltiError(f"Images of the preset {vocabulary.preset} do not state their size: pass the grid.")
        stated = vocabulary.grammar.read_grid(begun, vocabulary.grid.axes, vocabulary.special_ids)
        if stated is None:
            return _allowed_size(vocabulary, begun, size)
        grid = stated
    steps = _steps(vocabulary, tuple(grid))
    return steps[len(begun)] if len(begun) < len(steps) else None


def _allowed_size(vocabulary: VisualVocabulary, begun: list[int], size: SizeText | SizeTokens) -> Allowed:
    """Return what may follow an incomplete size."""
    choices = size.choices(begun[1:])
    if choices is not None:
        return _ranges(choices)
    body = vocabulary.grammar.body
    complete = None if body is None else [*begun, vocabulary.specials[body].id]
    ids = vocabulary.special_ids
    if complete is None or vocabulary.grammar.read_grid(complete, vocabulary.grid.axes, ids) is None:
        raise SmaltiError("An image in the sequence states no valid size: begin it with the prompt of this vocabulary.")
    return ((complete[-1], complete[-1]),)


@lru_cache(maxsize=64)
def _steps(vocabulary: VisualVocabulary, grid: Grid) -> tuple[Allowed, ...]:
    if vocabulary.layout != "flat":
        raise SmaltiError(
            f"Sequences of the layout '{vocabulary.layout}' have several ids per step, which one head cannot generate: use "
            "a flat layout."
        )
    ranges, steps, count = vocabulary.ranges, [], 0
    for number in vocabulary.template(grid).tolist():
        if number == CODE:
            steps.append((ranges[count % len(ranges)],))
            count += 1
        else:
            steps.append(((number, number),))
    return tuple(steps)


def _size_end(vocabulary: VisualVocabulary, grid: Grid) -> int:
    """Return the index of the first token after the size."""
    grammar, axes = vocabulary.grammar, vocabulary.grid.axes
    before = grammar.before_codes(axes, grid, vocabulary.special_ids)
    return len(before) - (grammar.body is not None)


def _ranges(ids: list[int]) -> Allowed:
    """Merge ascending ids to closed ranges."""
    merged: list[Range] = []
    for number in ids:
        if merged and merged[-1][1] == number - 1:
            merged[-1] = (merged[-1][0], number)
        else:
            merged.append((number, number))
    return tuple(merged)
