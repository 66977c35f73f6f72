"""What a preset is: a grammar and a layout, which together with a plan of ids make a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from smalti.errors import SmaltiError
from smalti.export.vocabulary.grammar import Grammar, SizeText, SizeTokens
from smalti.export.vocabulary.manifest import SequenceLayout, VisualVocabulary
from smalti.export.vocabulary.names import CodeNames
from smalti.export.vocabulary.parts import Codes, GridRule, Special, TextVocabulary


@dataclass(frozen=True, kw_only=True)
class IdPlan:
    """Which ids a vocabulary uses.

    Attributes:
        offset: id of code 0 of the first codebook.
        rows: rows of the final embedding table.
        specials: tokens of the grammar by role, and others that prompts need.
        characters: id of each character of a size text.
        size_base: id of the size token of size 0, which does not occur.
        mask, pad, fill, text: see `VisualVocabulary`.
    """

    offset: int
    rows: int
    specials: Mapping[str, Special] = field(default_factory=dict)
    characters: Mapping[str, int] = field(default_factory=dict)
    size_base: int | None = None
    mask: int | None = None
    pad: int | None = None
    fill: int | None = None
    text: TextVocabulary | None = None


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A grammar, a layout and, for published models, their ids.

    Attributes:
        name: name for the command line.
        summary: one line.
        codes: the published codebooks; None: any.
        grid: valid grids.
        layout: layout of a sequence.
        shared: whether the codebooks share one range of ids.
        grammar: roles around the codes, without a size.
        strings: string of each role, in the order of their ids in a new vocabulary.
        size_text: format of the size text.
        size_tokens: the size tokens, whose `base` is replaced.
        names: strings of the codes.
        mask: whether there is a mask token after the codes.
        own_table: whether ids are rows of tables of their own, not of a text vocabulary.
        published: the published ids.
    """

    name: str
    summary: str
    codes: Codes | None = None
    grid: GridRule = field(default_factory=GridRule)
    layout: SequenceLayout = "flat"
    shared: bool = False
    grammar: Grammar = field(default_factory=Grammar)
    strings: Mapping[str, str] = field(default_factory=dict)
    size_text: str | None = None
    size_tokens: SizeTokens | None = None
    names: CodeNames | None = None
    mask: bool = False
    own_table: bool = False
    published: IdPlan | None = None

    @property
    def has_fill(self) -> bool:
        """Whether the layout has entries without a code."""
        return self.layout in ("delayed", "coarse-first", "unrolled")

    def strides(self, codes: Codes) -> tuple[int, ...]:
        """Return what is added to the offset for each entry of a position."""
        entries = codes.entries
        return tuple(0 if self.shared else sum(entries[:j]) for j in range(len(entries)))

    def vocabulary(
        self, ids: IdPlan, codes: Codes | None = None, *, delays: tuple[int, ...] | None = None, strings: bool = False
    ) -> VisualVocabulary:
        """Return the vocabulary with certain ids.

        Args:
            ids: the ids.
            codes: the codebooks; None: the published ones.
            delays: steps per entry, for the layout "delayed"; None: 0, 1, 2, ...
            strings: whether the codes have strings in the text tokenizer.

        Raises:
            SmaltiError: the ids contradict each other, or the preset has no strings.
        """
        codes = codes or self.codes
        if codes is None:
            raise SmaltiError(f"The preset {self.name} takes any codebooks: state their sizes.")
        if strings and self.names is None:
            raise SmaltiError(f"The preset {self.name} has no strings for codes: leave out the strings.")
        if strings and self.names is not None and "{k" not in self.names.pattern and len(codes.entries) > 1:
            raise SmaltiError(
                f"The preset {self.name} has strings for one codebook, not for {len(codes.entries)}: leave out the "
                "strings, or choose flat."
            )
        size: SizeText | SizeTokens | None = None
        if self.size_text is not None:
            size = SizeText(text=self.size_text, ids=ids.characters)
        elif self.size_tokens is not None and ids.size_base is not None:
            size = replace(self.size_tokens, base=ids.size_base)
        if self.layout == "delayed" and delays is None:
            delays = tuple(range(len(codes.entries)))
        return VisualVocabulary(
            preset=self.name,
            codes=codes,
            grid=self.grid,
            layout=self.layout,
            offset=ids.offset,
            strides=self.strides(codes),
            rows=ids.rows,
            grammar=replace(self.grammar, size=size),
            specials=ids.specials,
            names=self.names if strings else None,
            delays=delays,
            fill=ids.fill,
            mask=ids.mask,
            pad=ids.pad,
            text=ids.text,
        )
