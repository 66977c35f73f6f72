"""Our answer to a case of tests/parity/vocabulary.json, from its inputs alone: an adapter on smalti.export.vocabulary."""

from dataclasses import replace
from typing import Any

import numpy as np

from smalti.export.vocabulary import (
    Codes,
    GridRule,
    IdPlan,
    Special,
    VisualVocabulary,
    find_preset,
    prompts,
)
from smalti.export.vocabulary.bit_order import to_bits, to_digits
from smalti.export.vocabulary.constraints import allowed_steps
from smalti.export.vocabulary.grammar import Grammar
from smalti.export.vocabulary.layouts import delayed_prompt

TABLES = {
    "delay": "delayed", "delay-stereo": "delayed", "parallel": "delayed", "unrolled": "unrolled",
    "coarse-first": "coarse-first",
}  # fmt: skip
"""The preset of each kind of table with a fill id."""


def answer(case: dict) -> Any:
    """Return what the published code computes for a case: ids, strings, bits or ranges of ids, as lists."""
    facts, kind = case["parameters"], case["kind"]
    ids = None if case["ids"] is None else np.array(case["ids"], dtype=np.int64)
    match case["preset"]:
        case "emu3" | "emu3.5":
            return _emu3(case, ids)
        case "chameleon" | "anole" | "lumina-mgpt":
            return _chameleon(case, ids)
        case "show-o":
            return _show_o(case, ids).tolist()
        case "liquid":
            vocabulary = _vocabulary("liquid", facts, Codes(sizes=(facts["codebook_size"],)), rows=_end(facts))
            return prompts.with_text(
                vocabulary.encode(ids), facts["text_tokens_before"], facts["text_tokens_after"]
            ).tolist()
        case "cosmos-ar":
            return _cosmos(facts, ids).tolist()
        case "fsq":
            return to_digits(ids, facts["levels"], "radix").tolist()
        case "lfq-little" | "lfq-big":
            return to_bits(ids.reshape(-1), facts["bits"], facts["bit_order"]).tolist()
        case "radix-factorised":
            sizes = [facts["sub_vocabulary_size"]] * facts["sub_vocabularies"]
            return to_digits(ids.reshape(-1), sizes, "radix").tolist()
        case "vila-u":
            codes = Codes(sizes=(facts["codebook_size"],) * facts["depth"])
            vocabulary = _vocabulary("vila-u", facts, codes, rows=_end(facts))
            return prompts.depth_labels(vocabulary, ids, facts["input_ids"]).tolist()
        case "unitok":
            codes = Codes(sizes=(facts["codebook_size"],) * facts["codebooks"])
            return _table("unitok", codes, facts["codebook_size"]).encode(ids).tolist()
        case "open-magvit2":
            codes = Codes(sizes=(facts["codebook_size"],), split_bits=tuple(facts["bits"]))
            return _table("open-magvit2", codes, max(codes.entries)).encode(ids).tolist()
        case "wetok":
            return _wetok(facts, kind, ids).tolist()
        case "delay" | "pattern":
            return _delayed(facts, kind, ids).tolist()
        case "flat":
            codes = Codes(sizes=(facts["codebook_size"],) * facts["codebooks"])
            rows = facts["offset"] + sum(codes.sizes)
            return _table("bark", codes, rows, offset=facts["offset"]).encode(ids.T[None]).tolist()
        case _:
            raise ValueError(f"unknown preset {case['preset']}")


def answer_strings(case: dict) -> list[str]:
    """Return the strings of the answer to a case of Emu3, Chameleon or Lumina-mGPT."""
    codes = Codes(sizes=(case["parameters"]["codebook_size"],))
    return _vocabulary(case["preset"], case["parameters"], codes, grid=case["grid"]).to_strings(answer(case))


def _emu3(case: dict, ids: Any) -> list:
    facts, kind, grid = case["parameters"], case["kind"], case["grid"]
    vocabulary = _vocabulary(case["preset"], facts, Codes(sizes=(facts["codebook_size"],)))
    if kind == "prompt":
        grid = prompts.emu3_grid(facts["ratio"], facts["image_area"], facts["spatial_factor"])
        return prompts.generation_prompt(vocabulary, grid, [vocabulary.specials["bos"].id]).tolist()
    if kind == "body":
        return vocabulary.encode_rows(ids).tolist()
    if kind.startswith("generation"):
        steps = allowed_steps(vocabulary, grid, "chosen" if kind == "generation-auto" else "stated")
        given = len(prompts.generation_prompt(vocabulary, grid)) if case["preset"] == "emu3" else 1
        return _single_ranges(steps[given:])
    return vocabulary.encode(ids).tolist()


def _chameleon(case: dict, ids: Any) -> list:
    facts, kind, grid = case["parameters"], case["kind"], case["grid"]
    vocabulary = _vocabulary(case["preset"], facts, Codes(sizes=(facts["codebook_size"],)), grid=grid)
    if kind == "names":
        return [vocabulary.names.name(code) for code in ids.tolist()]
    if kind == "generation":
        return _single_ranges(allowed_steps(vocabulary, grid, "free")[1:])
    return prompts.with_text(vocabulary.encode(ids), facts.get("text_tokens", [])).tolist()


def _show_o(case: dict, ids: Any) -> np.ndarray:
    facts = case["parameters"]
    vocabulary = _vocabulary("show-o", facts, Codes(sizes=(facts["codebook_size"],), order="big"))
    bos, eos = facts["specials"]["<|sot|>"], facts["specials"]["<|eot|>"]
    text = prompts.ShowOText(ids=facts["text_tokens"], length=facts["max_text_length"], bos=bos, eos=eos)
    match case["kind"]:
        case "t2i":
            return prompts.show_o_image(vocabulary, ids, text)
        case "t2i-start":
            return prompts.show_o_masked(vocabulary, ids.shape, text)
        case "t2v":
            return prompts.show_o_video(vocabulary, ids, text)
        case "mmu":
            return prompts.show_o_understanding(vocabulary, ids, text)
    raise ValueError(f"unknown kind {case['kind']}")


def _cosmos(facts: dict, ids: Any) -> np.ndarray:
    begin = facts["add_special_tokens"] or facts["training_type"] == "text_to_video"
    grammar = Grammar(begin="boi" if begin else None, end="eoi" if facts["add_special_tokens"] else None)
    codes = Codes(sizes=(facts["codebook_size"],), order="radix")
    vocabulary = _vocabulary("cosmos-ar", facts, codes, grammar=grammar)
    pad = facts["specials"]["<|pad_token_video|>"]
    return prompts.pad_to_multiple(vocabulary.encode(ids), facts["pad_to_multiple_of"], pad)


def _wetok(facts: dict, kind: str, ids: Any) -> np.ndarray:
    sizes = (2 ** facts["bits_per_group"],) * facts["groups"]
    if kind == "flat":
        preset = replace(find_preset("bark"), shared=True)
        return preset.vocabulary(IdPlan(offset=0, rows=sizes[0]), Codes(sizes=sizes)).encode(ids)
    codes = Codes(sizes=sizes, order=facts["bit_order"], split_bits=tuple(facts["factorised_bits"]))
    return _table("wetok", codes, max(codes.entries)).encode(ids)


def _delayed(facts: dict, kind: str, ids: Any) -> np.ndarray:
    fill, delays = facts["special"], tuple(facts.get("delays", [0] * facts["codebooks"]))
    if kind == "delay-prompt":
        return delayed_prompt(ids.T, delays, fill, facts["max_length"])
    codes = Codes(sizes=(facts["codebook_size"],) * facts["codebooks"])
    preset = TABLES[kind]
    vocabulary = _table(preset, codes, fill + 1, fill=fill, delays=delays if preset == "delayed" else None)
    return vocabulary.encode(ids.T[None])


def _vocabulary(
    name: str,
    facts: dict,
    codes: Codes,
    *,
    rows: int | None = None,
    grid: list | None = None,
    grammar: Grammar | None = None,
) -> VisualVocabulary:
    """Return the vocabulary of a preset with the ids that a case states."""
    preset, specials, offset = find_preset(name), facts["specials"], facts["offset"]
    rows = facts["vocab_size"] if rows is None else rows
    published = preset.published.specials
    strings = {**{role: special.string for role, special in published.items()}, **preset.strings}
    plan = IdPlan(
        offset=offset,
        rows=rows,
        specials={
            role: Special(id=specials[string], string=string)
            for role, string in strings.items()
            if string in specials and specials[string] < rows and role != "pad"
        },
        characters=facts.get("digit_ids", {}),
        size_base=specials.get("<reserved08800>"),
        mask=facts.get("mask_id"),
        pad=specials.get("<|pad|>"),
    )
    if preset.grid.fixed is not None:
        preset = replace(preset, grid=GridRule(fixed=None if grid is None or len(grid) != 2 else tuple(grid)))
    if grammar is not None:
        preset = replace(preset, grammar=grammar)
    if "size_format" in facts:
        preset = replace(preset, size_text=facts["size_format"])
    return preset.vocabulary(plan, codes, strings=preset.names is not None)


def _table(
    name: str, codes: Codes, rows: int, *, offset: int = 0, fill: int | None = None, delays: tuple | None = None
) -> VisualVocabulary:
    """Return the vocabulary of a preset with a table of its own."""
    return find_preset(name).vocabulary(IdPlan(offset=offset, rows=rows, fill=fill), codes, delays=delays)


def _end(facts: dict) -> int:
    return facts["offset"] + facts["codebook_size"]


def _single_ranges(steps: list) -> list[list[int]]:
    return [list(only) for (only,) in steps]
