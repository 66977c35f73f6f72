"""A visual vocabulary: how the codes of a tokenizer become ids of a language model, and back.

Shapes: t, h, w latent positions; N positions; K codes per position; J entries per position, which are the K codes or the
sub-codes that `split_bits` cuts from their bits; S steps of a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from smalti.errors import SmaltiError
from smalti.export.vocabulary.arrangement import arrange, collect, fill_template, read_template
from smalti.export.vocabulary.bit_order import Ints, check_range
from smalti.export.vocabulary.grammar import Grammar, Grid, SizeTokens
from smalti.export.vocabulary.names import CodeNames
from smalti.export.vocabulary.parts import Codes, GridRule, Special, TextVocabulary

if TYPE_CHECKING:
    from smalti.types import Layout, TokenGrid

SequenceLayout = Literal["flat", "depth", "codebook-major", "factorized", "delayed", "coarse-first", "unrolled"]
LAYOUTS: tuple[str, ...] = get_args(SequenceLayout)

Range = tuple[int, int]
"""The lowest and the highest id, both included."""


@dataclass(frozen=True, kw_only=True)
class VisualVocabulary:
    """How codes become ids: id = offset + strides[j] + entry j. Encoding and decoding are exact inverses.

    Attributes:
        preset: name of the preset that it was made from.
        codes: the codebooks.
        grid: valid grids.
        layout: order of the entries in a sequence, see `layouts`.
        offset: id of code 0 of the first codebook.
        strides: (J,) added to the offset for each entry. Equal strides mean a shared range of ids.
        rows: rows of the final embedding table: every id is lower.
        grammar: what stands around the codes.
        specials: the tokens of the grammar, by role.
        names: strings of the codes; None: ids only.
        delays: (J,) steps, for the layout "delayed".
        fill: id of the entries of delayed, coarse-first and unrolled layouts that have no code.
        mask: id of the mask token of masked generation.
        pad: id of the padding after an image or video.
        text: the text tokenizer; None if ids are those of a table of their own.
        tokenizer: fingerprint of the weights of the visual tokenizer; None: not recorded.

    Raises:
        SmaltiError: the parts contradict each other, ranges of ids overlap, or an id is not below `rows`.
    """

    preset: str
    codes: Codes
    grid: GridRule = field(default_factory=GridRule)
    layout: SequenceLayout = "flat"
    offset: int = 0
    strides: tuple[int, ...]
    rows: int
    grammar: Grammar = field(default_factory=Grammar)
    specials: Mapping[str, Special] = field(default_factory=dict)
    names: CodeNames | None = None
    delays: tuple[int, ...] | None = None
    fill: int | None = None
    mask: int | None = None
    pad: int | None = None
    text: TextVocabulary | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        from smalti.export.vocabulary.manifest_checks import check_vocabulary

        check_vocabulary(self)

    def __hash__(self) -> int:
        return hash((self.preset, self.codes, self.layout, self.offset, self.strides, self.rows))

    @property
    def ranges(self) -> list[Range]:
        """The lowest and the highest id of each entry of a position, (J,)."""
        entries = zip(self.strides, self.codes.entries, strict=True)
        return [(self.offset + stride, self.offset + stride + size - 1) for stride, size in entries]

    @property
    def code_range(self) -> Range:
        """The lowest and the highest id of any code."""
        return min(low for low, _ in self.ranges), max(high for _, high in self.ranges)

    @property
    def has_grammar(self) -> bool:
        """Whether sequences have a step per position or code, around which the grammar stands; others are tables."""
        return self.layout in ("flat", "depth")

    @property
    def special_ids(self) -> dict[str, int]:
        """The id of each role."""
        return {role: special.id for role, special in self.specials.items()}

    def encode(self, codes: Ints) -> Ints:
        """Return the ids of an image or a video, with all tokens of the grammar.

        Args:
            codes: (h, w, K) or, for videos, (t, h, w, K) integers. The last axis may be missing if K is 1.

        Returns:
            int64 ids of the shape that the layout has: (S,) flat, (S, J) depth, (J, S) all others.

        Raises:
            SmaltiError: the grid is not valid, or a code is out of range.
        """
        codes, grid = self._check_codes(codes)
        return fill_template(self, self.template(grid), arrange(self, codes, grid))

    def encode_rows(self, codes: Ints) -> Ints:
        """Return the ids of the codes with the ends of rows and, in videos, of frames, and nothing before or after them.

        Raises:
            SmaltiError: see `encode`.
        """
        codes, grid = self._check_codes(codes)
        rows = np.array(self.grammar.rows(self.grid.axes, grid, self.special_ids, self._steps), dtype=np.int64)
        return fill_template(self, rows, arrange(self, codes, grid))

    def decode(self, ids: Ints, grid: Grid | None = None) -> Ints:
        """Invert `encode`: return the codes, (h, w, K) or (t, h, w, K) int64.

        Args:
            ids: a whole image or video, as `encode` returns it.
            grid: (h, w) or (t, h, w); needed if neither the sequence nor the vocabulary states it.

        Raises:
            SmaltiError: the length or a separator is wrong, the size disagrees, an id is no code of its codebook, or the
                grid is unknown.
        """
        ids = np.asarray(ids)
        expected_dimensions = 1 if self.layout == "flat" else 2
        if ids.ndim != expected_dimensions or ids.dtype.kind not in "iu":
            raise SmaltiError(
                f"A {self.layout} sequence is an array of integers with {expected_dimensions} axes, not {ids.dtype} of "
                f"shape {ids.shape}: pass the ids of one image or video."
            )
        ids = ids.astype(np.int64, copy=False)
        grid = self.find_grid(ids, grid)
        return collect(self, read_template(self, self.template(grid), ids), grid)

    def to_strings(self, ids: Ints | Sequence[int]) -> list[str]:
        """Return the string of each id of a flat sequence, for presets whose codes have strings.

        Raises:
            SmaltiError: an id has no string.
        """
        size = {} if self.grammar.size is None else self.grammar.size.strings()
        strings = {**size, **{special.id: special.string for special in self.specials.values()}}
        return [self._code_name(number) or self._known_string(strings, number) for number in map(int, ids)]

    def strings(self) -> dict[int, str]:
        """Return all strings that are tokens of their own by id: those of the grammar, and those of the codes if any."""
        size = self.grammar.size.strings() if isinstance(self.grammar.size, SizeTokens) else {}
        specials = {special.id: special.string for special in self.specials.values() if special.string is not None}
        if self.names is None:
            return size | specials
        codes = {
            low + code: self.names.name(code, j)
            for j, (low, high) in enumerate(self.ranges)
            for code in range(high - low + 1)
        }
        return size | specials | codes

    def to_ids(self, tokens: TokenGrid) -> list[Ints]:
        """Return the ids of each sample of a tokenized batch.

        Raises:
            SmaltiError: the tokens are those of another tokenizer, have several latent grids, or are frames of a clip and
                the vocabulary is for images.
        """
        grid = self.layout_grid(tokens)
        return [self.encode(sample.reshape(*grid, sample.shape[-1])) for sample in tokens.ids.cpu().numpy()]

    def from_ids(self, sequences: Sequence[Ints], layout: Layout) -> TokenGrid:
        """Invert `to_ids`.

        Args:
            sequences: one sequence per sample.
            layout: the layout of all samples, such as `Tokenizer.layout(size)`.

        Raises:
            SmaltiError: a sequence is not valid, see `decode`, or the layout has several grids.
        """
        import torch

        from smalti.types import TokenGrid

        grid = self.layout_grid(layout)
        codes = [self.decode(np.asarray(ids), grid).reshape(layout.positions, -1) for ids in sequences]
        ids = torch.from_numpy(np.stack(codes))
        return TokenGrid(ids=ids, grids=layout.grids, size=layout.size, frames=layout.frames)

    def layout_grid(self, layout: Layout) -> Grid:
        """Return the grid of a layout in the axes of this vocabulary.

        Raises:
            SmaltiError: the layout has several grids, or several frames and the vocabulary is for images.
        """
        if len(layout.grids) != 1:
            raise SmaltiError(
                f"A visual vocabulary needs one latent grid per sample, but this tokenizer has {len(layout.grids)}: use a "
                "tokenizer with one grid."
            )
        ((t, h, w),) = layout.grids
        if self.grid.axes == "thw":
            return (t, h, w)
        if t != 1:
            raise SmaltiError(
                f"The preset {self.preset} is for images, but the sample has {t} latent frames: use cosmos-ar."
            )
        return (h, w)

    def find_grid(self, ids: Ints, grid: Grid | None = None) -> Grid:
        """Return the grid of a sequence, from its size, the vocabulary, or the argument.

        Raises:
            SmaltiError: there is none, or two of them disagree.
        """
        first = ids[:, 0] if self.layout == "depth" else ids
        found = [grid] if grid is not None else []
        if self.grid.fixed is not None:
            found.append(self.grid.fixed)
        if self.grammar.size is not None:
            stated = self.grammar.read_grid(first.tolist(), self.grid.axes, self.special_ids)
            if stated is None:
                raise SmaltiError(
                    "The sequence does not begin with a size: pass the ids from the begin of the image on."
                )
            found.append(stated)
        if not found:
            raise SmaltiError(
                f"A sequence of the preset {self.preset} does not state its size: pass the grid ({self.grid.axes})."
            )
        if len(set(map(tuple, found))) > 1:
            raise SmaltiError(f"The sequence states the grid {found[-1]}, but it must be {found[0]}: check the size.")
        return tuple(found[0])

    def template(self, grid: Grid) -> Ints:
        """Return the sequence of a grid with `CODE` (-1) in place of codes, (S,).

        Raises:
            SmaltiError: the grid is not valid.
        """
        return _template(self, tuple(grid))

    def length(self, grid: Grid) -> int:
        """Return the number of steps S of a sequence."""
        if self.has_grammar:
            return len(self.template(grid))
        return self.encode(np.zeros((*grid, len(self.codes.sizes)), dtype=np.int64)).shape[1]

    def _code_name(self, number: int) -> str | None:
        book = next((j for j, (low, high) in enumerate(self.ranges) if low <= number <= high), None)
        return None if book is None or self.names is None else self.names.name(number - self.ranges[book][0], book)

    def _known_string(self, strings: Mapping[int, str | None], number: int) -> str:
        string = strings.get(number)
        if string is None:
            raise SmaltiError(f"The id {number} has no string in the vocabulary of the preset {self.preset}: use ids.")
        return string

    @property
    def _steps(self) -> int:
        """Steps per position in the sequence."""
        return len(self.codes.entries) if self.layout == "flat" else 1

    def _check_codes(self, codes: Ints) -> tuple[Ints, Grid]:
        codes = np.asarray(codes)
        axes, count = len(self.grid.axes), len(self.codes.sizes)
        if codes.ndim == axes and count == 1:
            codes = codes[..., None]
        if codes.ndim != axes + 1 or codes.shape[-1] != count:
            raise SmaltiError(
                f"This vocabulary has {count} codes per position and takes codes ({', '.join(self.grid.axes)}, {count}), "
                f"not {codes.shape}: use the vocabulary of this tokenizer."
            )
        self.grid.check(codes.shape[:-1])
        codes = codes if codes.dtype == np.int64 else check_range(codes, 2**63)
        for k, size in enumerate(self.codes.sizes):
            check_range(codes[..., k], size)
        return codes, codes.shape[:-1]


@lru_cache(maxsize=64)
def _template(vocabulary: VisualVocabulary, grid: Grid) -> Ints:
    vocabulary.grid.check(grid)
    grammar, axes, ids = vocabulary.grammar, vocabulary.grid.axes, vocabulary.special_ids
    template = np.array(
        [
            *grammar.before_codes(axes, grid, ids),
            *grammar.rows(axes, grid, ids, vocabulary._steps),
            *grammar.after_codes(axes, ids),
        ],
        dtype=np.int64,
    )
    template.flags.writeable = False
    return template
