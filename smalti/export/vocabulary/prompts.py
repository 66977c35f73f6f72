"""Prompt templates of published models: what stands around an image, and what generation starts from.

Text, task tokens and padding belong to prompts, not to the grammar of an image. Text is given as ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smalti.errors import SmaltiError
from smalti.export.vocabulary.bit_order import Ints
from smalti.export.vocabulary.grammar import CODE, Grid
from smalti.export.vocabulary.manifest import VisualVocabulary

IGNORED = -100
"""Label of a position without a loss, as in PyTorch and transformers."""


def with_text(image: Ints, before: Sequence[int] | Ints, after: Sequence[int] | Ints = ()) -> Ints:
    """Return text, an image and text as one sequence (Anole, Liquid)."""
    return np.concatenate([np.asarray(before, dtype=np.int64), image, np.asarray(after, dtype=np.int64)])


def generation_prompt(vocabulary: VisualVocabulary, grid: Grid, before: Sequence[int] = ()) -> Ints:
    """Return what the generation of an image starts from: the ids before the first code.

    Args:
        vocabulary: the vocabulary.
        grid: grid of the image.
        before: ids before the image, such as the begin of the sequence and text.
    """
    vocabulary.grid.check(grid)
    start = vocabulary.grammar.before_codes(vocabulary.grid.axes, grid, vocabulary.special_ids)
    return with_text(np.asarray(start, dtype=np.int64), before)


def emu3_grid(ratio: str, area: int, factor: int = 8) -> tuple[int, int]:
    """Return the grid (h, w) of Emu3 for an aspect ratio.

    Args:
        ratio: "width:height", such as "16:9".
        area: pixels of the image, approximately.
        factor: pixels per latent position. Halves are rounded to even numbers.

    Raises:
        SmaltiError: the ratio is invalid.
    """
    try:
        width, height = (int(number) for number in ratio.split(":"))
        scale = (area / (width * height)) ** 0.5
    except (ValueError, ZeroDivisionError) as error:
        raise SmaltiError(f"The ratio is '{ratio}': give width and height, such as 16:9.") from error
    return round(height * scale / factor), round(width * scale / factor)


@dataclass(frozen=True, kw_only=True)
class ShowOText:
    """A text for Show-o.

    Attributes:
        ids: ids of the text. The begin of text is added if it is missing.
        length: maximum number of tokens, begin and end included. A longer text is cut, and ends with `eos`.
        bos: id of the begin of text.
        eos: id of the end of text, in the published models the same.
    """

    ids: Sequence[int]
    length: int
    bos: int
    eos: int

    def block(self, before: Sequence[int], length: int) -> list[int]:
        """Return `before`, begin, text and end, cut to `length`."""
        begun = [] if self.ids and self.ids[0] == self.bos else [self.bos]
        block = [*before, *begun, *self.ids, self.eos]
        return block if len(block) <= length else [*block[: length - 1], self.eos]


def show_o_prompt(vocabulary: VisualVocabulary, text: ShowOText, task: str = "t2i") -> Ints:
    """Return the text block before an image of Show-o: padding, task token, text. It has text.length + 1 tokens.

    Args:
        vocabulary: Show-o's.
        text: the text.
        task: role of the task token: "t2i" or "t2v".
    """
    block = text.block([vocabulary.specials[task].id], text.length + 1)
    return np.array([*[_pad(vocabulary)] * (text.length + 1 - len(block)), *block], dtype=np.int64)


def show_o_image(vocabulary: VisualVocabulary, codes: Ints, text: ShowOText) -> Ints:
    """Return a training sequence from text to image."""
    return with_text(vocabulary.encode(codes), show_o_prompt(vocabulary, text))


def show_o_masked(vocabulary: VisualVocabulary, grid: Grid, text: ShowOText) -> Ints:
    """Return what masked generation starts from: `show_o_image` with the mask token at every code."""
    template = vocabulary.template(grid)
    masked = np.where(template == CODE, np.int64(_mask(vocabulary)), template)
    return with_text(masked, show_o_prompt(vocabulary, text))


def show_o_video(vocabulary: VisualVocabulary, codes: Ints, text: ShowOText) -> Ints:
    """Return a training sequence from text to video, which has other wrappers than an image."""
    specials = vocabulary.specials
    rows = with_text(vocabulary.encode_rows(codes), [specials["bov"].id], [specials["eov"].id])
    return with_text(rows, show_o_prompt(vocabulary, text, task="t2v"))


def show_o_understanding(vocabulary: VisualVocabulary, codes: Ints, text: ShowOText) -> Ints:
    """Return a training sequence from image to text, which is right-padded or cut to text.length tokens."""
    answer = text.block([], text.length)
    answer += [_pad(vocabulary)] * (text.length - len(answer))
    return with_text(vocabulary.encode(codes), [vocabulary.specials["mmu"].id], answer)


def pad_to_multiple(ids: Ints, multiple: int, pad: int) -> Ints:
    """Pad a sequence on the right to a multiple of a length (Cosmos: 64)."""
    return np.concatenate([ids, np.full(-len(ids) % multiple, pad, dtype=np.int64)])


def strip_padding(ids: Ints, pad: int) -> Ints:
    """Invert `pad_to_multiple`: remove `pad` from the right end."""
    kept = np.flatnonzero(np.asarray(ids) != pad)
    return ids[: kept[-1] + 1] if len(kept) else ids[:0]


def depth_labels(vocabulary: VisualVocabulary, codes: Ints, tokens: Sequence[int], placeholder: int = -200) -> Ints:
    """Return the labels (S, J) of a sequence with one image whose positions have a row of ids (VILA-U).

    Labels before the image are ignored. As in the published code, the image has labels only if its placeholder is the
    third token from the end, as in a sequence that ends with the image, its end token and the end of the sequence.

    Args:
        vocabulary: a vocabulary of the layout "depth".
        codes: codes of the image.
        tokens: ids of the text and of the tokens around the image, with a placeholder for the image.
        placeholder: id of the placeholder.

    Raises:
        SmaltiError: there is not exactly one placeholder.
    """
    tokens = list(tokens)
    if tokens.count(placeholder) != 1:
        raise SmaltiError(f"The tokens have {tokens.count(placeholder)} placeholders {placeholder}: give exactly one.")
    place = tokens.index(placeholder)
    rows = vocabulary.encode_rows(codes)
    if place != len(tokens) - 3:
        rows = np.full_like(rows, IGNORED)
    labels = np.array(
        [number if index >= place - 1 else IGNORED for index, number in enumerate(tokens)], dtype=np.int64
    )
    text = np.repeat(labels[:, None], rows.shape[1], axis=1)
    return np.concatenate([text[:place], rows, text[place + 1 :]])


def _pad(vocabulary: VisualVocabulary) -> int:
    if vocabulary.pad is None:
        raise SmaltiError(f"The vocabulary of the preset {vocabulary.preset} has no padding: use that of Show-o.")
    return vocabulary.pad


def _mask(vocabulary: VisualVocabulary) -> int:
    if vocabulary.mask is None:
        raise SmaltiError(f"The vocabulary of the preset {vocabulary.preset} has no mask token: use that of Show-o.")
    return vocabulary.mask
