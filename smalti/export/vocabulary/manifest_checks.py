"""Checks of a visual vocabulary: its parts fit together, and no id has two meanings."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from smalti.errors import SmaltiError
from smalti.export.vocabulary.bit_order import MAX_BITS, ORDERS, bits_of
from smalti.export.vocabulary.grammar import SizeText, SizeTokens

if TYPE_CHECKING:
    from smalti.export.vocabulary.manifest import Range, VisualVocabulary

INSIDE_TEXT = ("show-o", "liquid", "chameleon", "anole", "lumina-mgpt")
"""Published presets whose visual ids lie inside the text vocabulary or in the padding of its embedding table."""

_FILLED = ("delayed", "coarse-first", "unrolled")


def check_vocabulary(vocabulary: VisualVocabulary) -> None:
    """Check a vocabulary.

    Raises:
        SmaltiError: its parts contradict each other, ranges of ids overlap, or an id is not below `rows`.
    """
    _check_integers(vocabulary)
    _check_codes(vocabulary)
    _check_layout(vocabulary)
    _check_grammar(vocabulary)
    _check_ids(vocabulary)
    _check_text(vocabulary)


def _check_integers(vocabulary: VisualVocabulary) -> None:
    """Check that all numbers are integers, which a file may violate."""
    codes, grid = vocabulary.codes, vocabulary.grid
    numbers = [vocabulary.offset, vocabulary.rows, *vocabulary.strides, *codes.sizes, *grid.multiple, grid.patch]
    numbers += [special.id for special in vocabulary.specials.values()]
    for optional in (vocabulary.delays, codes.split_bits, grid.fixed):
        numbers += optional or ()
    numbers += [number for number in (vocabulary.mask, vocabulary.pad, vocabulary.fill) if number is not None]
    wrong = next((number for number in numbers if type(number) is not int), None)
    if wrong is not None:
        raise _error(vocabulary, f"{wrong!r} is no integer")


def _check_codes(vocabulary: VisualVocabulary) -> None:
    codes = vocabulary.codes
    if not codes.sizes or min(codes.sizes) < 2 or max(codes.sizes) > 2**MAX_BITS:
        raise _error(vocabulary, f"the codebook sizes {list(codes.sizes)} are not all in [2, 2^{MAX_BITS}]")
    if codes.order not in ORDERS:
        raise _error(vocabulary, f"the order '{codes.order}' is none of {', '.join(ORDERS)}")
    if codes.split_bits is not None:
        if min(codes.split_bits, default=0) < 1 or max(codes.split_bits) > MAX_BITS:
            raise _error(vocabulary, f"split_bits {list(codes.split_bits)} are not all in [1, {MAX_BITS}]")
        if sum(bits_of(codes.sizes)) != sum(codes.split_bits):
            raise _error(
                vocabulary, f"split_bits sum to {sum(codes.split_bits)}, but a position has {codes.bits:g} bits"
            )
    grid, axes = vocabulary.grid, len(vocabulary.grid.axes)
    if grid.axes not in ("hw", "thw"):
        raise _error(vocabulary, f"the axes '{grid.axes}' are neither 'hw' nor 'thw'")
    if len(grid.multiple) != axes or min(grid.multiple) < 1 or grid.patch < 1:
        raise _error(vocabulary, f"the grid needs {axes} multiples and a patch of at least 1")
    if grid.fixed is not None:
        vocabulary.grid.check(grid.fixed)
    if grid.patch > 1 and vocabulary.grammar.row_end is not None:
        raise _error(vocabulary, "positions ordered by patches have no rows, so that row_end must be null")


def _check_layout(vocabulary: VisualVocabulary) -> None:
    from smalti.export.vocabulary.manifest import LAYOUTS

    entries, layout = len(vocabulary.codes.entries), vocabulary.layout
    if layout not in LAYOUTS:
        raise _error(vocabulary, f"the layout '{layout}' is none of {', '.join(LAYOUTS)}")
    if len(vocabulary.strides) != entries:
        raise _error(vocabulary, f"it has {len(vocabulary.strides)} strides for {entries} ids per position")
    if (layout == "delayed") != (vocabulary.delays is not None):
        raise _error(vocabulary, "delays belong to the layout 'delayed', and only to it")
    if vocabulary.delays is not None and (len(vocabulary.delays) != entries or min(vocabulary.delays) < 0):
        raise _error(vocabulary, f"it needs {entries} delays of at least 0, not {list(vocabulary.delays)}")
    if (layout in _FILLED) != (vocabulary.fill is not None):
        raise _error(vocabulary, f"a fill id belongs to the layouts {', '.join(_FILLED)}, and only to them")


def _check_grammar(vocabulary: VisualVocabulary) -> None:
    grammar = vocabulary.grammar
    if not vocabulary.has_grammar and (grammar.roles() or grammar.size):
        raise _error(vocabulary, f"sequences of the layout '{vocabulary.layout}' are tables, which have no grammar")
    missing = [role for role in grammar.roles() if role not in vocabulary.specials]
    if missing:
        raise _error(vocabulary, f"the grammar names '{missing[0]}', which is not in specials")
    if isinstance(grammar.size, SizeTokens) and not set(grammar.size.axes) <= set(vocabulary.grid.axes):
        raise _error(
            vocabulary, f"the size tokens have the axes '{grammar.size.axes}', the grid '{vocabulary.grid.axes}'"
        )


def _check_ids(vocabulary: VisualVocabulary) -> None:
    """Check that ids are below `rows` and that specials are no codes."""
    low, high = vocabulary.code_range
    named = {f"'{role}'": special.id for role, special in vocabulary.specials.items()}
    named |= {
        name: getattr(vocabulary, name) for name in ("mask", "pad", "fill") if getattr(vocabulary, name) is not None
    }
    spans = {name: (number, number) for name, number in named.items()}
    size = vocabulary.grammar.size
    if isinstance(size, SizeTokens):
        spans["a size token"] = (size.base + 1, size.base + size.count)
    elif isinstance(size, SizeText):
        spans |= {f"'{character}' of the size": (number, number) for character, number in size.ids.items()}
    for name, (first, last) in {**spans, "a code": (low, high)}.items():
        if first < 0 or last >= vocabulary.rows:
            raise _error(
                vocabulary,
                f"{name} has the id {last if first >= 0 else first}, but the ids are 0 to {vocabulary.rows - 1}",
            )
    for name, (first, last) in spans.items():
        clash = next((r for r in vocabulary.ranges if first <= r[1] and last >= r[0]), None)
        if clash is not None:
            raise _error(
                vocabulary,
                f"{name} has the id {max(first, clash[0])}, which is also that of a code ({clash[0]} to {clash[1]})",
            )
    seen: dict[int, str] = {}
    for role, special in vocabulary.specials.items():
        if special.id in seen:
            raise _error(vocabulary, f"'{seen[special.id]}' and '{role}' have the same id {special.id}")
        seen[special.id] = role
    _check_overlaps(vocabulary, vocabulary.ranges)
    if vocabulary.names is not None and "{k" not in vocabulary.names.pattern and len(set(vocabulary.ranges)) > 1:
        raise _error(vocabulary, "the codes of several codebooks have the same strings")


def _check_overlaps(vocabulary: VisualVocabulary, ranges: list[Range]) -> None:
    """Check that the ranges of two entries are disjoint or start at the same id, as entries do that share a range."""
    ordered = sorted(set(ranges))
    for (first, last), (start, _) in pairwise(ordered):
        if start <= last and start != first:
            raise _error(vocabulary, f"the ids {first} to {last} of a codebook overlap with those from {start} on")


def _check_text(vocabulary: VisualVocabulary) -> None:
    """Check that a vocabulary starts after the text and after the padding of the embedding table."""
    text = vocabulary.text
    if text is None or vocabulary.preset in INSIDE_TEXT:
        return
    low, _ = vocabulary.code_range
    if low < text.end:
        raise _error(
            vocabulary,
            f"its codes start at {low}, but the text tokenizer and the embedding table have the ids below {text.end}",
        )


def _error(vocabulary: VisualVocabulary, reason: str) -> SmaltiError:
    return SmaltiError(
        f"This visual vocabulary (preset {vocabulary.preset}) is not valid: {reason}. Make a new one with "
        "`smalti vocabulary`."
    )
