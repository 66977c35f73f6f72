"""Vocabularies after a text tokenizer, strings in it, constraints of generation, and codewords as embeddings."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.export.vocabulary import Codes, TextVocabulary, published
from smalti.export.vocabulary.constraints import allowed_steps, next_allowed
from smalti.export.vocabulary.embeddings import codebook_vectors, initialize_embeddings, save_codebook_vectors
from smalti.export.vocabulary.names import CodeNames
from smalti.export.vocabulary.new_vocabulary import make_vocabulary
from smalti.export.vocabulary.text_tokenizer import (
    add_strings,
    check_strings,
    check_text_tokenizer,
    config_rows,
    load_text_tokenizer,
    measure,
)  # fmt: skip
from smalti.tokenizers.bottlenecks import FSQ, GQ, Projected


def text_tokenizer(sentences=("a photo of a cat", "12*34")):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    model.train_from_iterator(sentences, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.mark.parametrize("name", ["emu3", "emu3.5", "chameleon", "lumina-mgpt", "show-o", "liquid", "flat", "vila-u"])
@pytest.mark.parametrize("rows", [0, 500])
def test_new_ids_start_after_the_text_and_after_the_rows_of_the_embedding_table(name, rows):
    text = text_tokenizer()
    codes = Codes(sizes=(64, 64))
    vocabulary = make_vocabulary(name, codes, text_tokenizer=text, config_rows=rows)
    low, high = vocabulary.code_range
    assert low >= max(len(text), rows)
    assert high < vocabulary.rows
    assert vocabulary.text == measure(text, rows)
    values = np.random.default_rng(0).integers(0, 64, (2, 4, 2))
    assert np.array_equal(vocabulary.decode(vocabulary.encode(values), (2, 4)), values)


def test_padded_embedding_tables_are_not_overlapped():
    text = TextVocabulary(len_tokenizer=151_665, config_rows=152_064)
    emu3 = published("emu3")
    with pytest.raises(SmaltiError, match="below 152064"):
        replace(emu3, text=text)


@pytest.mark.parametrize("rows", [0, 300])
@pytest.mark.parametrize(("name", "sizes"), [("emu3", (64,)), ("flat", (16, 16)), ("lumina-mgpt", (32,))])
def test_every_added_string_is_exactly_its_own_id(name, sizes, rows, tmp_path):
    text = text_tokenizer()
    vocabulary = make_vocabulary(name, Codes(sizes=sizes), text_tokenizer=text, config_rows=rows, strings=True)
    before = len(text)
    assert add_strings(text, vocabulary) == len(text) - before > 0
    assert len(text) == vocabulary.rows
    assert add_strings(text, vocabulary) == 0
    text.save_pretrained(tmp_path)
    loaded = load_text_tokenizer(tmp_path)
    check_strings(loaded, vocabulary)
    check_text_tokenizer(loaded, vocabulary)
    codes = np.random.default_rng(0).integers(0, sizes[0], (2, 2, len(sizes)))
    ids = vocabulary.encode(codes)
    assert loaded("".join(vocabulary.to_strings(ids)), add_special_tokens=False)["input_ids"] == ids.tolist()
    # A tokenizer that has all strings keeps its ids.
    again = make_vocabulary(name, Codes(sizes=sizes), text_tokenizer=loaded)
    assert again.ranges == vocabulary.ranges
    assert again.special_ids == vocabulary.special_ids


def test_strings_that_are_not_one_id_are_refused():
    text = text_tokenizer()
    vocabulary = make_vocabulary("emu3", Codes(sizes=(64,)), text_tokenizer=text, strings=True)
    with pytest.raises(SmaltiError, match="must be the one id"):
        check_strings(text, vocabulary)
    add_strings(text, vocabulary)
    unpadded = replace(vocabulary, names=CodeNames(pattern="<|visual token {c}|>"))
    with pytest.raises(SmaltiError, match="must be the one id"):
        check_strings(text, unpadded)


def test_another_text_tokenizer_is_refused():
    vocabulary = make_vocabulary("flat", Codes(sizes=(64,)), text_tokenizer=text_tokenizer(), strings=True)
    other = text_tokenizer(["an entirely different text", "of the same size"])
    for function in (add_strings, check_text_tokenizer):
        with pytest.raises(SmaltiError, match="not made with this text tokenizer"):
            function(other, vocabulary)
    with pytest.raises(SmaltiError, match="not made with this text tokenizer"):
        check_text_tokenizer(other, published("chameleon"))


def test_the_rows_of_the_model_are_read_from_its_configuration(tmp_path):
    assert config_rows(tmp_path) == 0
    for content, rows in (({"vocab_size": 7}, 7), ({"text_config": {"vocab_size": 9}}, 9), ({}, 0)):
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert config_rows(tmp_path) == rows
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SmaltiError, match="damaged"):
        config_rows(tmp_path)
    with pytest.raises(SmaltiError, match="cannot be loaded as a text tokenizer"):
        load_text_tokenizer(tmp_path / "missing")


# Constraints


def generate(vocabulary, grid, seed, size="chosen"):
    """Return an image whose every id is drawn from what is allowed."""
    generator = np.random.default_rng(seed)
    ids = [vocabulary.special_ids[vocabulary.grammar.begin]]
    while (allowed := next_allowed(vocabulary, ids, grid)) is not None:
        low, high = allowed[generator.integers(len(allowed))]
        ids.append(int(generator.integers(low, high + 1)))
    return ids


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["emu3", "emu3.5", "chameleon", "lumina-mgpt", "show-o", "liquid"]),
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_whatever_is_drawn_from_the_allowed_ids_is_a_valid_image(name, h, w, seed):
    vocabulary = published(name)
    grid = vocabulary.grid.fixed or (h * vocabulary.grid.multiple[0], w * vocabulary.grid.multiple[1])
    ids = generate(vocabulary, grid, seed)
    codes = vocabulary.decode(np.array(ids), grid)
    assert np.array_equal(vocabulary.encode(codes), ids)
    assert len(allowed_steps(vocabulary, grid)) == len(ids)
    assert all(low <= n <= high for ((low, high),), n in zip(allowed_steps(vocabulary, grid), ids, strict=True))


@pytest.mark.parametrize("name", ["emu3", "emu3.5", "lumina-mgpt"])
def test_a_model_may_choose_the_size(name):
    for seed in range(3):
        vocabulary = published(name)
        if name == "lumina-mgpt":
            size = replace(vocabulary.grammar.size, count=6)
            vocabulary = replace(vocabulary, grammar=replace(vocabulary.grammar, size=size))
        ids = np.array(generate(vocabulary, None, seed))
        h, w, _ = vocabulary.decode(ids).shape
        assert (min(h, w) >= 10 and max(h, w) <= 99) if name != "lumina-mgpt" else max(h, w) <= 12


def test_a_narrow_image_of_emu3_ends():
    vocabulary = published("emu3")
    assert generate(vocabulary, (3, 1), 0)[-1] == vocabulary.specials["eoi"].id  # published code never ends width 1


def test_a_prompt_without_a_valid_size_is_refused():
    vocabulary = published("emu3")
    ids = vocabulary.grammar.size.ids
    begun = [vocabulary.specials["boi"].id, ids["*"], ids["*"], ids["*"], ids["*"], ids["*"]]
    with pytest.raises(SmaltiError, match="no valid size"):
        next_allowed(vocabulary, begun)
    with pytest.raises(SmaltiError, match="pass the grid"):
        next_allowed(published("show-o"), [50_296])
    with pytest.raises(SmaltiError, match="several ids per step"):
        allowed_steps(published("vila-u"), (2, 2))


# Embeddings


@pytest.mark.parametrize("quantizer", [GQ(3, 4), FSQ([5, 4, 3], 2), Projected(FSQ([4, 4], 2), dim=6)])
def test_the_rows_of_a_position_sum_to_its_codeword(quantizer, tmp_path):
    from safetensors.torch import load_file

    quantizer = quantizer.eval()
    tables = codebook_vectors(quantizer)
    count = quantizer.tokens_per_position
    ids = torch.randint(quantizer.codebook_size, (1, 20, count))
    rows = sum(table[ids[0, :, k]] for k, table in enumerate(tables))
    torch.testing.assert_close(rows, quantizer.lookup(ids)[0])
    vocabulary = make_vocabulary("flat", Codes(sizes=(quantizer.codebook_size,) * count))
    save_codebook_vectors(tmp_path / "e.safetensors", quantizer, vocabulary)
    assert torch.equal(load_file(tmp_path / "e.safetensors")["codebook_1"], tables[1])


def test_similar_codewords_get_similar_embeddings():
    quantizer = GQ(2, 4).eval()
    vocabulary = make_vocabulary("flat", Codes(sizes=(16, 16)))
    weight = torch.randn(vocabulary.rows, 64) * 0.02
    initialize_embeddings(weight, vocabulary, quantizer)
    (first, last), _ = vocabulary.ranges
    rows = weight[first : last + 1]
    near, far = (rows[0] - rows[1]).norm(), (rows[0] - rows[15]).norm()  # codewords that differ in one bit, and in four
    assert near < far
    assert 0.005 < rows.std() < 0.05
    with pytest.raises(SmaltiError, match="resize_token_embeddings"):
        initialize_embeddings(weight[:-1], vocabulary, quantizer)
    with pytest.raises(SmaltiError, match="sub-codes"):
        initialize_embeddings(weight, make_vocabulary("bits", Codes(sizes=(16, 16))), quantizer)
    with pytest.raises(SmaltiError, match="share"):
        initialize_embeddings(weight, make_vocabulary("depth", Codes(sizes=(16, 16))), quantizer)
