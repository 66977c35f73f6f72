"""Visual vocabularies: encoding and decoding are exact inverses, and damaged sequences and manifests are refused."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.export.vocabulary import PRESETS, Codes, GridRule, IdPlan, Special, TextVocabulary, published
from smalti.export.vocabulary.bit_order import (
    from_bits,
    from_digits,
    from_integers,
    join_codes,
    split_codes,
    to_bits,
    to_digits,
    to_integers,
)  # fmt: skip
from smalti.export.vocabulary.layouts import delayed_prompt
from smalti.export.vocabulary.manifest_file import FILE_NAME, dumps, load_vocabulary, loads, save_vocabulary
from smalti.export.vocabulary.names import CodeNames
from smalti.export.vocabulary.new_vocabulary import make_vocabulary
from smalti.export.vocabulary.prompts import pad_to_multiple, strip_padding
from smalti.types import TokenGrid

PUBLISHED = [name for name, preset in PRESETS.items() if preset.published is not None]
GENERIC = [name for name, preset in PRESETS.items() if preset.published is None]


def random_codes(vocabulary, grid, seed):
    generator = np.random.default_rng(seed)
    codes = np.stack([generator.integers(0, size, grid) for size in vocabulary.codes.sizes], axis=-1)
    codes.reshape(-1, codes.shape[-1])[0] = np.array(vocabulary.codes.sizes) - 1
    codes.reshape(-1, codes.shape[-1])[-1] = 0
    return codes


def valid_grid(vocabulary, t, h, w):
    if vocabulary.grid.fixed is not None:
        return vocabulary.grid.fixed
    sizes = (t, h, w) if vocabulary.grid.axes == "thw" else (h, w)
    return tuple(size * multiple for size, multiple in zip(sizes, vocabulary.grid.multiple, strict=True))


def check_round_trip(vocabulary, grid, seed):
    codes = random_codes(vocabulary, grid, seed)
    ids = vocabulary.encode(codes)
    assert ids.dtype == np.int64
    assert np.array_equal(vocabulary.decode(ids, grid), codes)
    assert vocabulary.length(grid) == (len(ids) if vocabulary.has_grammar else ids.shape[1])
    assert ids.min() >= 0
    assert ids.max() < vocabulary.rows
    if vocabulary.grammar.size is not None:
        assert np.array_equal(vocabulary.decode(ids), codes)
    return ids


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(PUBLISHED),
    t=st.integers(1, 3),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    seed=st.integers(0, 9),
)
def test_published_presets_round_trip(name, t, h, w, seed):
    vocabulary = published(name)
    check_round_trip(vocabulary, valid_grid(vocabulary, t, h, w), seed)


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(GENERIC),
    sizes=st.lists(st.sampled_from([2, 8, 64, 1024]), min_size=1, max_size=5),
    order=st.sampled_from(["little", "big"]),
    axes=st.sampled_from(["hw", "thw"]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 9),
)
def test_presets_for_any_codebooks_round_trip(name, sizes, order, axes, shape, seed):
    vocabulary = make_vocabulary(name, Codes(sizes=tuple(sizes), order=order), axes=axes)
    check_round_trip(vocabulary, valid_grid(vocabulary, *shape), seed)
    assert loads(dumps(vocabulary)) == vocabulary


@settings(max_examples=30, deadline=None)
@given(delays=st.lists(st.integers(0, 6), min_size=1, max_size=5), width=st.integers(1, 6), seed=st.integers(0, 9))
def test_any_list_of_delays_round_trips(delays, width, seed):
    codes = Codes(sizes=(16,) * len(delays))
    vocabulary = PRESETS["delayed"].vocabulary(IdPlan(offset=0, rows=17, fill=16), codes, delays=tuple(delays))
    ids = check_round_trip(vocabulary, (1, width), seed)
    assert ids.shape == (len(delays), 1 + width + max(delays))
    assert (ids[:, 0] == 16).all()


@settings(max_examples=40, deadline=None)
@given(patch=st.integers(1, 3), h=st.integers(1, 3), w=st.integers(1, 3), t=st.integers(1, 2), seed=st.integers(0, 9))
def test_patch_order_round_trips(patch, h, w, t, seed):
    rule = GridRule(axes="thw", multiple=(1, 1, 1), patch=patch)
    vocabulary = replace(make_vocabulary("flat", Codes(sizes=(9, 5))), grid=rule)
    check_round_trip(vocabulary, (t, h * patch, w * patch), seed)


def test_patch_order_is_row_major_outside_and_inside():
    vocabulary = replace(make_vocabulary("bits", Codes(sizes=(16,))), grid=GridRule(patch=2))
    ids = vocabulary.encode(np.arange(16).reshape(4, 4))
    assert ids[:, 0].tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 70), min_size=1, max_size=8),
    order=st.sampled_from(["little", "big", "radix"]),
    seed=st.integers(0, 9),
)
def test_digits_round_trip(sizes, order, seed):
    codes = np.random.default_rng(seed).integers(0, np.prod(np.array(sizes, dtype=object)), 9)
    digits = to_digits(codes, sizes, order)
    assert np.array_equal(from_digits(digits, sizes, order), codes)
    assert (digits < sizes).all()


@settings(max_examples=50, deadline=None)
@given(
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    order=st.sampled_from(["little", "big"]),
    data=st.data(),
)
def test_bits_can_be_cut_anywhere(widths, order, data):
    total = sum(widths)
    cuts = sorted({0, total, *data.draw(st.lists(st.integers(0, total), max_size=5)), *range(0, total, 60)})
    new = [b - a for a, b in pairwise(cuts)]
    sizes = [2**bits for bits in widths]
    codes = np.stack([np.random.default_rng(0).integers(0, size, 5) for size in sizes], axis=-1)
    codes[0] = np.array(sizes) - 1
    parts = split_codes(codes, sizes, new, order)
    assert np.array_equal(join_codes(parts, sizes, new, order), codes)
    bits = np.concatenate([to_bits(codes[:, k], width, order) for k, width in enumerate(widths)], axis=1)
    assert np.array_equal(bits, np.concatenate([to_bits(parts[:, k], n, order) for k, n in enumerate(new)], axis=1))


@pytest.mark.parametrize("order", ["little", "big"])
def test_62_bits_are_exact_and_63_are_refused(order):
    codes = np.array([0, 1, 2**31, 2**53 + 1, 2**62 - 1])
    assert np.array_equal(from_bits(to_bits(codes, 62, order), order), codes)
    with pytest.raises(SmaltiError, match="62 bits"):
        to_bits(codes, 63, order)


@pytest.mark.parametrize("groups", [8, 16, 32])
def test_integers_of_64_128_and_256_bits_are_exact(groups):
    codes = np.random.default_rng(0).integers(0, 256, (20, groups))
    codes[0], codes[1] = 255, 0
    integers = to_integers(codes, [256] * groups)
    assert integers[:2] == [2 ** (8 * groups) - 1, 0]
    assert integers == [int.from_bytes(row.astype(np.uint8).tobytes(), "little") for row in codes]
    assert np.array_equal(from_integers([int(str(value)) for value in integers], [256] * groups), codes)
    with pytest.raises(SmaltiError, match="not in"):
        from_integers([2 ** (8 * groups)], [256] * groups)


def test_the_preset_bits_describes_256_bits_without_strings():
    vocabulary = make_vocabulary("bits", Codes(sizes=(2**18,) * 14 + (16,)))
    assert (vocabulary.codes.bits, vocabulary.names, vocabulary.rows) == (256, None, 256)
    check_round_trip(vocabulary, (3, 2), 0)


def test_a_fill_that_does_not_fit_is_refused():
    vocabulary = published("musicgen")
    ids = vocabulary.encode(random_codes(vocabulary, (2, 3), 0))
    ids[1, 1] = 5
    with pytest.raises(SmaltiError, match="fill id"):
        vocabulary.decode(ids, (2, 3))


def test_a_delayed_prompt_leaves_room_for_the_rest():
    prompt = delayed_prompt(np.array([[1, 3], [2, 4]]), [0, 1], 9, 6)
    assert prompt.tolist() == [[9, 1, 2, -1, -1, 9], [9, 9, 3, 4, -1, -1]]
    assert (delayed_prompt(np.array([[1, 3]]), [0, 1], 9, 2) == -1).all()
    with pytest.raises(SmaltiError, match="does not fit"):
        delayed_prompt(np.ones((6, 2), dtype=int), [0, 1], 9, 6)


@given(st.integers(0, 70), st.integers(1, 64))
def test_padding_round_trips(count, multiple):
    ids = np.arange(count)
    padded = pad_to_multiple(ids, multiple, 99)
    assert len(padded) % multiple == 0
    assert np.array_equal(strip_padding(padded, 99), ids)


# Damaged sequences, which published code accepts


def emu3_image():
    vocabulary = published("emu3")
    codes = random_codes(vocabulary, (2, 3), 0)
    return vocabulary, vocabulary.encode(codes).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids[:-1], "14 tokens"),
        (lambda ids: [*ids, ids[-1]], "16 tokens"),
        (lambda ids: [*ids[:8], *ids[9:]], "14 tokens"),
        (lambda ids: [*ids[:8], ids[5], *ids[9:]], "Token 8"),
        (lambda ids: [*ids[:5], 151_846, *ids[6:]], "Position 0"),
        (lambda ids: [*ids[:5], 1, *ids[6:]], "Position 0"),
        (lambda ids: [*ids[:5], 184_622, *ids[6:]], "Position 0"),
        (lambda ids: [ids[0], 18, *ids[2:]], "tokens"),
        (lambda ids: [ids[0], 18, ids[2], 17, *ids[4:]], "tokens|Token"),
        (lambda ids: ids[1:], "size"),
        (lambda ids: [ids[0], 15, *ids[1:]], "size"),
        (lambda ids: [], "size"),
    ],
)
def test_damaged_images_are_refused_in_one_sentence(change, message):
    vocabulary, ids = emu3_image()
    with pytest.raises(SmaltiError, match=message) as caught:
        vocabulary.decode(np.array(change(ids), dtype=np.int64))
    assert "\n" not in str(caught.value)


def test_a_size_that_disagrees_with_the_grid_is_refused():
    vocabulary, ids = emu3_image()
    with pytest.raises(SmaltiError, match="must be"):
        vocabulary.decode(np.array(ids), (3, 2))


def test_codes_of_another_tokenizer_are_refused():
    vocabulary = published("emu3")
    for codes, message in (
        (np.full((2, 2), 32_768), "32768"),
        (np.full((2, 2), -1), "-1"),
        (np.zeros((2, 2, 3), dtype=int), "3"),
        (np.zeros((2, 2)), "integers"),
        (np.zeros((0, 2), dtype=int), "at least 1"),
    ):
        with pytest.raises(SmaltiError, match=message):
            vocabulary.encode(codes)
    with pytest.raises(SmaltiError, match="multiples"):
        published("lumina-mgpt").encode(np.zeros((3, 2), dtype=int))
    with pytest.raises(SmaltiError, match=r"\(32, 32\)"):
        published("chameleon").encode(np.zeros((2, 2), dtype=int))
    with pytest.raises(SmaltiError, match="pass the grid"):
        published("show-o").decode(published("show-o").encode(np.zeros((2, 2), dtype=int)))


# Manifests


def test_a_manifest_round_trips_through_a_file(tmp_path):
    for name in PUBLISHED:
        save_vocabulary(tmp_path / FILE_NAME, published(name))
        assert load_vocabulary(tmp_path) == published(name)


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 100_000},
        {"offset": 151_840},
        {"offset": -5},
        {"offset": "151854"},
        {"offset": 1.5},
        {"rows": 184_621},
        {"strides": [0, 1]},
        {"layout": "spiral"},
        {"layout": "delayed"},
        {"layout": "factorized"},
        {"mask": 151_854},
        {"mask": 999_999},
        {"pad": 160_000},
        {"codes": {"sizes": [1], "order": "little", "split_bits": None}},
        {"codes": {"sizes": [32_768], "order": "middle", "split_bits": None}},
        {"codes": {"sizes": [32_768], "order": "little", "split_bits": [8, 8]}},
        {"codes": {"sizes": ["many"], "order": "little", "split_bits": None}},
        {"grid": {"axes": "wh", "multiple": [1, 1], "fixed": None, "patch": 1}},
        {"grid": {"axes": "hw", "multiple": [1], "fixed": None, "patch": 1}},
        {"grid": {"axes": "hw", "multiple": [2, 2], "fixed": [3, 3], "patch": 1}},
        {"specials": {}},
        {"specials": None},
        {"text": {"len_tokenizer": 151_854, "config_rows": 152_064, "sha256": None}},
        {"unknown": 1},
        {"format": "other"},
        {"format_version": 99},
        {"grammar": None},
    ],
)
def test_an_invalid_manifest_is_refused_in_one_sentence(change, tmp_path):
    content = json.loads(dumps(published("emu3"))) | change
    (tmp_path / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(SmaltiError) as caught:
        load_vocabulary(tmp_path / FILE_NAME)
    assert FILE_NAME in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused(tmp_path):
    for content in (b"", b"{", b"[]", b"\xff\xfe", b'{"format": "smalti-visual-vocabulary"}'):
        (tmp_path / FILE_NAME).write_bytes(content)
        with pytest.raises(SmaltiError, match=FILE_NAME):
            load_vocabulary(tmp_path)
    with pytest.raises(SmaltiError, match="no vocabulary"):
        load_vocabulary(tmp_path / "missing.json")


def test_published_presets_may_lie_inside_the_padding_of_an_embedding_table_and_others_may_not():
    show_o = published("show-o")
    assert show_o.text is not None
    assert show_o.offset < show_o.text.config_rows
    with pytest.raises(SmaltiError, match="below 51200"):
        replace(show_o, preset="mine")


def test_two_tokens_with_one_id_are_refused():
    emu3 = published("emu3")
    specials = {**emu3.specials, "eol": Special(id=emu3.specials["eof"].id)}
    with pytest.raises(SmaltiError, match="same id"):
        replace(emu3, specials=specials)
    with pytest.raises(SmaltiError, match="same strings"):
        replace(make_vocabulary("flat", Codes(sizes=(4, 4))), names=CodeNames(pattern="<{c}>"))


@given(st.integers(0, 200_000), st.sampled_from([published("emu3").names, published("chameleon").names]))
def test_names_round_trip(code, names):
    assert names.parse(names.name(code)) == (code, 0)
    assert names.parse(names.name(code).replace("0", "", 1)) in ((code, 0), None)
    assert names.parse("<|visual token 5|>") is None


def test_new_ids_without_text_start_at_zero_and_published_ones_need_published_codebooks():
    assert make_vocabulary("emu3", Codes(sizes=(32_768,))) == published("emu3")
    with pytest.raises(SmaltiError, match="32768 codes, but the tokenizer has 2 codebooks of 16"):
        make_vocabulary("emu3", Codes(sizes=(16, 16)))
    flat = make_vocabulary("flat", Codes(sizes=(16, 16)))
    assert flat.ranges == [(2, 17), (18, 33)]
    assert flat.rows == 34
    assert TextVocabulary(len_tokenizer=5, config_rows=9).end == 9


# Token grids


def test_token_grids_round_trip():
    vocabulary = make_vocabulary("flat", Codes(sizes=(16, 16)))
    tokens = TokenGrid(ids=torch.randint(16, (3, 6, 2)), grids=((1, 2, 3),), size=(15, 24), frames=None)
    sequences = vocabulary.to_ids(tokens)
    assert len(sequences) == 3
    restored = vocabulary.from_ids(sequences, tokens.layout())
    assert torch.equal(restored.ids, tokens.ids)
    assert restored.layout() == tokens.layout()


def test_clips_and_several_grids_are_refused_by_vocabularies_for_images():
    vocabulary = make_vocabulary("flat", Codes(sizes=(16, 16)))
    ids = torch.zeros(1, 12, 2, dtype=torch.int64)
    with pytest.raises(SmaltiError, match="2 latent frames"):
        vocabulary.to_ids(TokenGrid(ids=ids, grids=((2, 2, 3),), size=(16, 24), frames=5))
    with pytest.raises(SmaltiError, match="one latent grid"):
        vocabulary.to_ids(TokenGrid(ids=ids, grids=((1, 2, 3), (1, 2, 3)), size=(16, 24), frames=5))
    videos = make_vocabulary("flat", Codes(sizes=(16, 16)), axes="thw")
    tokens = TokenGrid(ids=torch.randint(16, (1, 12, 2)), grids=((2, 2, 3),), size=(16, 24), frames=5)
    assert torch.equal(videos.from_ids(videos.to_ids(tokens), tokens.layout()).ids, tokens.ids)
