"""Making the vocabulary of a tokenizer: published ids where they fit, else new ids after those of the text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from smalti.errors import SmaltiError
from smalti.export.vocabulary.bit_order import bits_of
from smalti.export.vocabulary.grammar import Grid
from smalti.export.vocabulary.manifest import VisualVocabulary
from smalti.export.vocabulary.parts import Codes, Special, TextVocabulary
from smalti.export.vocabulary.preset import IdPlan, Preset
from smalti.export.vocabulary.presets import find_preset
from smalti.export.vocabulary.text_tokenizer import character_ids, find_string, measure

if TYPE_CHECKING:
    from smalti.tokenizers.tokenizer import Tokenizer

_SIZE_COUNT = 128
"""Number of sizes per axis that a new vocabulary has tokens for."""


def codes_of(tokenizer: Tokenizer) -> Codes:
    """Return the codebooks of a discrete tokenizer and the order of bits or digits in its ids.

    Raises:
        SmaltiError: the tokenizer is continuous.
    """
    from smalti.tokenizers.bottlenecks import FSQ, Joint, Projected

    quantizer = tokenizer.quantizer
    while isinstance(quantizer, (Joint, Projected)):
        quantizer = quantizer.discrete if isinstance(quantizer, Joint) else quantizer.quantizer
    return Codes(
        sizes=(quantizer.codebook_size,) * quantizer.tokens_per_position,
        order="radix" if isinstance(quantizer, FSQ) else "little",
    )


def check_fits(vocabulary: VisualVocabulary, tokenizer: Tokenizer, fingerprint: str | None = None) -> None:
    """Check that a vocabulary is one for a tokenizer.

    Args:
        vocabulary: the vocabulary.
        tokenizer: the tokenizer.
        fingerprint: fingerprint of its weights; None: not known.

    Raises:
        SmaltiError: the codebooks differ, or the vocabulary was made for other weights.
    """
    sizes = codes_of(tokenizer).sizes
    if vocabulary.codes.sizes != sizes:
        raise SmaltiError(
            f"The visual vocabulary is for {_describe(vocabulary.codes.sizes)}, but the tokenizer has {_describe(sizes)}: "
            "make one for this tokenizer with `smalti vocabulary`."
        )
    if None not in (fingerprint, vocabulary.tokenizer) and vocabulary.tokenizer != fingerprint:
        raise SmaltiError(
            "The visual vocabulary was made for other weights, whose codes have other meanings: use its own tokenizer, or "
            "make a new one with `smalti vocabulary`."
        )


def make_vocabulary(
    name: str,
    codes: Codes,
    *,
    axes: Literal["hw", "thw"] = "hw",
    text_tokenizer: Any = None,
    config_rows: int = 0,
    strings: bool = False,
    grid: Grid | None = None,
    tokenizer: str | None = None,
) -> VisualVocabulary:
    """Return a vocabulary of a preset for certain codebooks.

    Published ids are used if the codebooks are the published ones and there is no text tokenizer. With a text tokenizer,
    new ids start after its ids and after the rows of the embedding table. Strings that the tokenizer has keep their ids.

    Args:
        name: name of the preset.
        codes: the codebooks, see `codes_of`.
        axes: axes of the grids, for presets that take both images and videos.
        text_tokenizer: a tokenizer of Hugging Face; None: ids of a table of their own, or published ids.
        config_rows: rows of the embedding table of its model; 0 if there is none yet.
        strings: whether the codes get strings in the text tokenizer.
        grid: the only valid grid; None: that of the preset.
        tokenizer: fingerprint of the weights of the visual tokenizer, to record.

    Raises:
        SmaltiError: the preset does not fit the codebooks or the text tokenizer.
    """
    preset, is_published = find_preset(name), find_preset(name).published is not None
    if not is_published and axes == "thw":
        preset = replace(preset, grid=replace(preset.grid, axes="thw", multiple=(1, 1, 1)))
    if text_tokenizer is not None:
        if preset.own_table:
            raise SmaltiError(f"The preset {name} has tables of its own: leave out the text tokenizer.")
        preset = replace(preset, grid=replace(preset.grid, fixed=None))  # a published grid is for its own tokenizer
        if preset.size_tokens is not None:
            preset = replace(preset, size_tokens=replace(preset.size_tokens, count=_SIZE_COUNT))
        plan = _plan_after_text(preset, codes, text_tokenizer, config_rows, strings=strings)
    elif is_published:
        codes, plan = _check_published(preset, codes), preset.published
        strings = strings or preset.names is not None
    elif strings:
        raise SmaltiError("Strings belong to a text tokenizer: pass it, or leave out the strings.")
    else:
        codes = _split(preset, codes)
        plan = _plan(preset, codes, 0, lambda _: None)
    assert plan is not None
    if grid is not None:
        preset = replace(preset, grid=replace(preset.grid, fixed=tuple(grid)))
    return replace(preset.vocabulary(plan, codes, strings=strings), tokenizer=tokenizer)


def _check_published(preset: Preset, codes: Codes) -> Codes:
    """Return the published codes of a preset if they are those of the tokenizer."""
    assert preset.codes is not None
    if preset.codes.sizes == codes.sizes:
        return replace(preset.codes, order=codes.order)
    advice = (
        "choose one of the presets factorized, delayed, codebook-major or coarse-first"
        if preset.own_table
        else "pass a text tokenizer to get new ids, or choose a preset that takes any codebooks, such as flat"
    )
    raise SmaltiError(
        f"The preset {preset.name} is for {_describe(preset.codes.sizes)}, but the tokenizer has {_describe(codes.sizes)}: "
        f"{advice}."
    )


def _split(preset: Preset, codes: Codes) -> Codes:
    """Cut the bits of a position into bytes, for the presets that do."""
    if preset.name not in ("factorized", "bits"):
        return codes
    bits = sum(bits_of(codes.sizes))
    return replace(codes, split_bits=(8,) * (bits // 8) + ((bits % 8,) if bits % 8 else ()))


def _plan_after_text(preset: Preset, codes: Codes, tokenizer: Any, rows: int, *, strings: bool) -> IdPlan:
    """Plan ids after those of a text tokenizer, or find them if it has all strings already."""
    names = preset.names
    first, last = (
        (None, None) if names is None else (names.name(0), names.name(codes.sizes[-1] - 1, len(codes.sizes) - 1))
    )
    found = None if first is None else find_string(tokenizer, first)
    if found is not None and last is not None and find_string(tokenizer, last) is not None:
        text = TextVocabulary(len_tokenizer=found, config_rows=found)
        plan = _plan(preset, codes, found, lambda string: find_string(tokenizer, string), text)
        plan = replace(plan, rows=max(plan.rows, rows, len(tokenizer)))
    else:
        text = measure(tokenizer, rows)
        plan = _plan(preset, codes, text.end, lambda string: find_string(tokenizer, string), text)
    if preset.size_text is not None:
        plan = replace(plan, characters=character_ids(tokenizer, "0123456789*"))
    pad = tokenizer.pad_token_id
    low, high = plan.offset, plan.offset + sum(codes.entries) - 1
    return plan if pad is None or low <= pad <= high or plan.pad is not None else replace(plan, pad=pad)


def _plan(
    preset: Preset, codes: Codes, start: int, find: Callable[[str], int | None], text: TextVocabulary | None = None
) -> IdPlan:
    """Give out ids from `start` on: specials, size tokens, codes, the mask and the fill id."""
    specials, following = {}, start
    for role, string in preset.strings.items():
        known = find(string)
        specials[role] = Special(id=following if known is None else known, string=string)
        following += known is None
    size_base = None
    if preset.size_tokens is not None:
        known = find(preset.size_tokens.strings()[preset.size_tokens.base + 1])
        size_base = (following if known is None else known) - 1
        following += preset.size_tokens.count if known is None else 0
    offset = following
    following += max(codes.entries) if preset.shared else sum(codes.entries)
    mask = following if preset.mask else None
    following += preset.mask
    fill = following if preset.has_fill else None
    following += preset.has_fill
    rows = max([following, *(special.id + 1 for special in specials.values())])
    pad = specials.get("pad")
    return IdPlan(
        offset=offset,
        rows=rows,
        specials=specials,
        size_base=size_base,
        mask=mask,
        pad=None if pad is None else pad.id,
        fill=fill,
        text=text,
    )


def _describe(sizes: tuple[int, ...]) -> str:
    """Return codebook sizes in words."""
    if len(set(sizes)) > 1:
        return f"codebooks of {', '.join(map(str, sizes))} codes"
    return f"{len(sizes)} {'codebook' if len(sizes) == 1 else 'codebooks'} of {sizes[0]} codes"
