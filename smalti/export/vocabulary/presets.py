"""Presets: the grammars and layouts of published multimodal models, and common ones for several codes per position.

Ids and sizes are those of the published code and tokenizer files: Emu3 (baaivision/Emu3), Emu3.5, Chameleon and Anole,
Lumina-mGPT, Show-o, Liquid, Cosmos autoregressive, VILA-U, UniTok, Open-MAGVIT2, WeTok, 1X World Model (1xgpt),
Bark and MusicGen.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.errors import SmaltiError
from smalti.export.vocabulary.grammar import Grammar, SizeTokens
from smalti.export.vocabulary.manifest import VisualVocabulary
from smalti.export.vocabulary.names import CodeNames
from smalti.export.vocabulary.parts import Codes, GridRule, Special, TextVocabulary
from smalti.export.vocabulary.preset import IdPlan, Preset

_EMU3_STRINGS = {
    "eol": "<|extra_200|>", "eof": "<|extra_201|>", "img": "<|image token|>", "boi": "<|image start|>",
    "eoi": "<|image end|>",
}  # fmt: skip
_EMU3_IDS = IdPlan(
    offset=151_854,
    rows=184_622,
    specials={
        **{role: Special(id=number, string=_EMU3_STRINGS[role])
           for role, number in {"eol": 151_846, "eof": 151_847, "img": 151_851, "boi": 151_852, "eoi": 151_853}.items()},
        "bos": Special(id=151_849, string="<|extra_203|>"),
        "eos": Special(id=151_850, string="<|extra_204|>"),
    },
    characters={**{str(digit): 15 + digit for digit in range(10)}, "*": 9},
    pad=151_643,
    text=TextVocabulary(len_tokenizer=151_854, config_rows=151_854),
)  # fmt: skip
_EMU3 = Preset(
    name="emu3",
    summary="rows that end with a token, size as text (Emu3)",
    codes=Codes(sizes=(32_768,)),
    grammar=Grammar(begin="boi", body="img", row_end="eol", frame_end="eof", end="eoi"),
    strings=_EMU3_STRINGS,
    size_text="{h}*{w}",
    names=CodeNames(pattern="<|visual token {c:06d}|>"),
    published=_EMU3_IDS,
)
_CHAMELEON_IDS = IdPlan(
    offset=4,
    rows=65_536,
    specials={
        "boi": Special(id=8197, string="<racm3:break>"),
        "eoi": Special(id=8196, string="<eoss>"),
        "bos": Special(id=0, string="<s>"),
        "eos": Special(id=2, string="</s>"),
    },
    pad=1,
)
_CHAMELEON = Preset(
    name="chameleon",
    summary="one grid of 32 x 32 without rows (Chameleon)",
    codes=Codes(sizes=(8192,)),
    grid=GridRule(fixed=(32, 32)),
    grammar=Grammar(begin="boi", end="eoi"),
    strings={"eoi": "<eoss>", "boi": "<racm3:break>"},
    names=CodeNames(pattern="IMGIMG{c}Z", letters=True),
    published=_CHAMELEON_IDS,
)
_SHOW_O_STRINGS = {
    "pad": "<|pad|>", "boi": "<|soi|>", "eoi": "<|eoi|>", "bov": "<|sov|>", "eov": "<|eov|>", "t2i": "<|t2i|>",
    "mmu": "<|mmu|>", "t2v": "<|t2v|>", "v2v": "<|v2v|>", "lvg": "<|lvg|>",
}  # fmt: skip
_IMAGE_STRINGS = {"boi": "<|image start|>", "eoi": "<|image end|>"}
_WRAPPERS = Grammar(begin="boi", end="eoi")

_PRESETS = (
    _EMU3,
    replace(
        _EMU3,
        name="emu3.5",
        summary="as emu3, row ends between rows only (Emu3.5)",
        codes=Codes(sizes=(131_072,)),
        grammar=replace(_EMU3.grammar, row_end_last=False, frame_end=None),
        strings={role: string for role, string in _EMU3_STRINGS.items() if role != "eof"},
        published=replace(_EMU3_IDS, rows=282_926),
    ),
    _CHAMELEON,
    replace(_CHAMELEON, name="anole", summary="as chameleon (Anole)"),
    replace(
        _CHAMELEON,
        name="lumina-mgpt",
        summary="rows that end with a token, size as two tokens (Lumina-mGPT)",
        grid=GridRule(multiple=(2, 2)),
        grammar=replace(_CHAMELEON.grammar, row_end="eol"),
        strings={**_CHAMELEON.strings, "eol": "<reserved08799>"},
        size_tokens=SizeTokens(axes="hw", base=8804, unit=2, count=512, name="<reserved{n:05d}>", name_base=8800),
        published=replace(
            _CHAMELEON_IDS,
            specials={**_CHAMELEON_IDS.specials, "eol": Special(id=8803, string="<reserved08799>")},
            size_base=8804,
        ),
    ),
    Preset(
        name="show-o",
        summary="masked generation, mask token after the codes (Show-o)",
        codes=Codes(sizes=(8192,), order="big"),
        grammar=_WRAPPERS,
        strings=_SHOW_O_STRINGS,
        mask=True,
        published=IdPlan(
            offset=50_305,
            rows=58_498,
            specials={
                role: Special(id=50_295 + index, string=string)
                for index, (role, string) in enumerate(_SHOW_O_STRINGS.items())
            },
            mask=58_497,
            pad=50_295,
            text=TextVocabulary(len_tokenizer=50_295, config_rows=51_200),
        ),
    ),
    Preset(
        name="liquid",
        summary="codes right after the text tokenizer (Liquid)",
        codes=Codes(sizes=(8192,)),
        grammar=_WRAPPERS,
        strings={"boi": "<boi>", "eoi": "<eoi>"},
        published=IdPlan(
            offset=256_000,
            rows=264_192,
            specials={"boi": Special(id=7, string="<boi>"), "eoi": Special(id=8, string="<eoi>")},
            pad=0,
            text=TextVocabulary(len_tokenizer=256_000, config_rows=256_000),
        ),
    ),
    Preset(
        name="cosmos-ar",
        summary="videos, frame by frame (Cosmos autoregressive)",
        codes=Codes(sizes=(64_000,), order="radix"),
        grid=GridRule(axes="thw", multiple=(1, 1, 1)),
        grammar=Grammar(begin="boi", end="eoi"),
        strings={"boi": "<|begin_of_video|>", "eoi": "<|end_of_video|>", "pad": "<|pad_token_video|>"},
        published=IdPlan(
            offset=0,
            rows=64_003,
            specials={
                "boi": Special(id=64_000, string="<|begin_of_video|>"),
                "eoi": Special(id=64_001, string="<|end_of_video|>"),
            },
            pad=64_002,
        ),
    ),
    Preset(
        name="vila-u",
        summary="one row of codes per position, same ids at every depth (VILA-U)",
        codes=Codes(sizes=(16_384,) * 4),
        layout="depth",
        shared=True,
        grammar=_WRAPPERS,
        strings={"boi": "<im_start>", "eoi": "<im_end>"},
        published=IdPlan(
            offset=32_004,
            rows=32_004 + 16_384,
            specials={
                "boi": Special(id=32_000, string="<im_start>"),
                "eoi": Special(id=32_001, string="<im_end>"),
                "bov": Special(id=32_002, string="<vi_start>"),
                "eov": Special(id=32_003, string="<vi_end>"),
            },
            text=TextVocabulary(len_tokenizer=32_004, config_rows=32_004),
        ),
    ),
    Preset(
        name="unitok",
        summary="one list per codebook, own tables (UniTok)",
        codes=Codes(sizes=(4096,) * 8),
        layout="codebook-major",
        shared=True,
        own_table=True,
        published=IdPlan(offset=0, rows=4096),
    ),
    Preset(
        name="open-magvit2",
        summary="18 bits as sub-codes of 6 and 12 bits, own tables (Open-MAGVIT2)",
        codes=Codes(sizes=(2**18,), split_bits=(6, 12)),
        layout="factorized",
        shared=True,
        own_table=True,
        published=IdPlan(offset=0, rows=4096),
    ),
    Preset(
        name="wetok",
        summary="32 bits as sub-codes of 8 bits, own tables (WeTok)",
        codes=Codes(sizes=(256,) * 4, split_bits=(8,) * 4),
        layout="factorized",
        shared=True,
        own_table=True,
        published=IdPlan(offset=0, rows=256),
    ),
    Preset(
        name="1xgpt",
        summary="videos, 18 bits as two sub-codes of 9 bits and a mask (1X World Model)",
        codes=Codes(sizes=(2**18,), split_bits=(9, 9)),
        grid=GridRule(axes="thw", multiple=(1, 1, 1)),
        layout="factorized",
        shared=True,
        own_table=True,
        published=IdPlan(offset=0, rows=2**18 + 1, mask=2**18),
    ),
    Preset(
        name="musicgen",
        summary="delayed codebooks, own tables (MusicGen)",
        codes=Codes(sizes=(2048,) * 4),
        layout="delayed",
        shared=True,
        own_table=True,
        published=IdPlan(offset=0, rows=2049, fill=2048),
    ),
    Preset(
        name="bark",
        summary="the codes of a position follow each other, nothing around them (Bark, coarse)",
        codes=Codes(sizes=(1024,) * 2),
        published=IdPlan(offset=10_000, rows=12_048),
    ),
    Preset(
        name="flat",
        summary="the codes of a position follow each other, one range of ids per codebook",
        grammar=_WRAPPERS,
        strings=_IMAGE_STRINGS,
        names=CodeNames(pattern="<|visual token {k} {c:06d}|>"),
    ),
    Preset(
        name="depth",
        summary="one row of codes per position, for a depth head",
        layout="depth",
        shared=True,
        grammar=_WRAPPERS,
        strings=_IMAGE_STRINGS,
    ),
    Preset(
        name="factorized",
        summary="sub-codes of 8 bits, one list per sub-code, own tables",
        layout="factorized",
        shared=True,
        own_table=True,
    ),
    Preset(name="delayed", summary="codebook k starts k steps late", layout="delayed", shared=True, own_table=True),
    Preset(
        name="codebook-major", summary="one list per codebook", layout="codebook-major", shared=True, own_table=True
    ),
    Preset(
        name="coarse-first",
        summary="codebook 0 at all positions, then the others in parallel",
        layout="coarse-first",
        shared=True,
        own_table=True,
    ),
    Preset(name="unrolled", summary="one codebook per step", layout="unrolled", shared=True, own_table=True),
    Preset(
        name="bits",
        summary="no strings: the bits of a position as bytes, for codes of any number of bits",
        layout="depth",
        shared=True,
        own_table=True,
    ),
)
PRESETS = {preset.name: preset for preset in _PRESETS}


def find_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        SmaltiError: there is none.
    """
    if name not in PRESETS:
        raise SmaltiError(f"There is no vocabulary preset '{name}': choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def published(name: str) -> VisualVocabulary:
    """Return the vocabulary of a published model with its published ids and strings.

    Raises:
        SmaltiError: there is no such preset, or it has no published ids.
    """
    preset = find_preset(name)
    if preset.published is None:
        raise SmaltiError(f"The preset {name} has no published ids: make a vocabulary for your tokenizer.")
    return preset.vocabulary(preset.published, strings=preset.names is not None)
