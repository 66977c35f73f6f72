"""The parts of a visual vocabulary: codebooks, grids, special tokens and the text tokenizer.

Shapes: t, h, w latent positions; K codes per position; J entries per position, which are the K codes or the sub-codes that
`split_bits` cuts from their bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from smalti.errors import SmaltiError
from smalti.export.vocabulary.bit_order import Order
from smalti.export.vocabulary.grammar import Grid


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The codes of a latent position.

    Attributes:
        sizes: (K,) size of each codebook.
        order: how a code is made of the channels of its codeword, see `bit_order`.
        split_bits: (J,) bits of the sub-codes into which the bits of a position are cut; None: no cut.
    """

    sizes: tuple[int, ...]
    order: Order = "little"
    split_bits: tuple[int, ...] | None = None

    @property
    def entries(self) -> tuple[int, ...]:
        """(J,) number of values of each entry."""
        return self.sizes if self.split_bits is None else tuple(2**bits for bits in self.split_bits)

    @property
    def bits(self) -> float:
        """Bits per position."""
        return sum(math.log2(size) for size in self.sizes)


@dataclass(frozen=True, kw_only=True)
class GridRule:
    """Which grids are valid, and the order of their positions.

    Attributes:
        axes: "hw" for images, "thw" for videos.
        multiple: what each axis is a multiple of.
        fixed: the only valid grid; None: any.
        patch: positions are ordered patch by patch, each of patch x patch positions. 1 is raster order: t slowest, w
            fastest.
    """

    axes: Literal["hw", "thw"] = "hw"
    multiple: tuple[int, ...] = (1, 1)
    fixed: Grid | None = None
    patch: int = 1

    def check(self, grid: Grid) -> None:
        """Raise a SmaltiError if a grid is not valid."""
        axes = f"({', '.join(self.axes)})"
        if len(grid) != len(self.axes) or min(grid) < 1:
            raise SmaltiError(f"This vocabulary takes grids {axes} of at least 1, not {tuple(grid)}.")
        if self.fixed is not None and tuple(grid) != tuple(self.fixed):
            raise SmaltiError(
                f"This vocabulary takes the grid {axes} = {tuple(self.fixed)} only, not {tuple(grid)}: resize the image."
            )
        patches = (1,) * (len(grid) - 2) + (self.patch, self.patch)
        units = [math.lcm(multiple, patch) for multiple, patch in zip(self.multiple, patches, strict=True)]
        if any(size % unit for size, unit in zip(grid, units, strict=True)):
            raise SmaltiError(
                f"This vocabulary takes grids {axes} that are multiples of {tuple(units)}, not {tuple(grid)}: crop or "
                "resize the image."
            )


@dataclass(frozen=True, kw_only=True)
class Special:
    """A token of the grammar: its id, and its string in a text tokenizer or None."""

    id: int
    string: str | None = None


@dataclass(frozen=True, kw_only=True)
class TextVocabulary:
    """The text tokenizer, measured before visual tokens were added.

    Attributes:
        len_tokenizer: len(tokenizer).
        config_rows: rows of the embedding table of the language model, config.vocab_size, which may be padded.
        sha256: hash of the sorted strings and ids of the tokenizer, see `text_tokenizer.fingerprint`; None: not recorded.
    """

    len_tokenizer: int
    config_rows: int
    sha256: str | None = None

    @property
    def end(self) -> int:
        """First id that neither the tokenizer nor the embedding table has."""
        return max(self.len_tokenizer, self.config_rows)
