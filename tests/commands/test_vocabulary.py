"""`smalti vocabulary`: files it writes, and bad input, which ends with one sentence and exit code 2."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from smalti.__main__ import main
from smalti.export.vocabulary import published
from smalti.export.vocabulary.manifest_file import load_vocabulary
from smalti.export.vocabulary.new_vocabulary import check_fits
from smalti.export.vocabulary.text_tokenizer import check_strings, load_text_tokenizer
from smalti.tokenizers import onevae, wetok
from smalti.tokenizers.bottlenecks import FSQ, GQ, KL
from smalti.tokenizers.checkpoints import fingerprint, load, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("vocabulary")
    torch.manual_seed(0)
    save(wetok(GQ(2, 4), stride=8, channels=8, blocks=1, groups=None), folder / "tokenizer")
    save(wetok(KL(4), stride=8, channels=8, blocks=1, groups=None), folder / "continuous")
    save(onevae(FSQ([4, 4]), stride=(4, 8, 8), channels=8, blocks=1), folder / "video")
    text = Tokenizer(models.BPE())
    text.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    text.train_from_iterator([], trainer)
    PreTrainedTokenizerFast(tokenizer_object=text).save_pretrained(folder / "language-model")
    (folder / "language-model" / "config.json").write_text('{"vocab_size": 300}')
    return folder


def run(*words):
    return main(["vocabulary", *map(str, words)])


def test_a_vocabulary_for_a_tokenizer(folder, tmp_path, capsys):
    out = tmp_path / "visual_vocab.json"
    assert run(folder / "tokenizer", "--preset", "flat", "--grid", "4x6", "--out", out) == 0
    assert "8 bits per position, 2 ids per position, codes 2 to 33, 34 rows" in capsys.readouterr().out
    vocabulary = load_vocabulary(out)
    assert vocabulary.tokenizer == fingerprint(folder / "tokenizer")
    assert vocabulary.grid.fixed == (4, 6)
    check_fits(vocabulary, load(folder / "tokenizer"), fingerprint(folder / "tokenizer"))


def test_a_vocabulary_after_a_text_tokenizer_with_strings_and_embeddings(folder, tmp_path):
    out, text, embeddings = (tmp_path / name for name in ("v.json", "text", "e.safetensors"))
    model = ("--text-tokenizer", folder / "language-model")
    options = ("--strings", "--text-out", text, "--embeddings", embeddings)
    assert run(folder / "tokenizer", "--preset", "flat", *model, *options, "--out", out) == 0
    vocabulary = load_vocabulary(out)
    assert vocabulary.special_ids == {"boi": 300, "eoi": 301}
    assert vocabulary.code_range == (302, 333)
    check_strings(load_text_tokenizer(text), vocabulary)
    assert load_file(embeddings)["codebook_0"].shape == (16, 8)


def test_a_vocabulary_for_videos(folder, tmp_path):
    assert run(folder / "video", "--preset", "flat", "--out", tmp_path / "v.json") == 0
    vocabulary = load_vocabulary(tmp_path / "v.json")
    assert vocabulary.grid.axes == "thw"
    codes = np.random.default_rng(0).integers(0, 16, (2, 3, 4, 1))
    assert np.array_equal(vocabulary.decode(vocabulary.encode(codes), (2, 3, 4)), codes)


def test_published_vocabularies_and_their_list(tmp_path, capsys):
    assert run("--list") == 0
    assert "emu3.5" in capsys.readouterr().out
    assert run("--preset", "emu3.5", "--out", tmp_path / "v.json") == 0
    assert load_vocabulary(tmp_path / "v.json") == published("emu3.5")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["TOKENIZER", "--preset", "emu3"], "32768 codes, but the tokenizer has 2 codebooks of 16 codes"),
        (["TOKENIZER", "--preset", "emu4"], "no vocabulary preset 'emu4'"),
        (["TOKENIZER"], "--preset"),
        (["CONTINUOUS", "--preset", "flat"], "continuous"),
        (["MISSING", "--preset", "flat"], "no tokenizer"),
        (["TOKENIZER", "--preset", "flat", "--strings"], "text tokenizer"),
        (["TOKENIZER", "--preset", "emu3", "--text-tokenizer", "LANGUAGE", "--strings"], "one codebook"),
        (["TOKENIZER", "--preset", "delayed", "--text-tokenizer", "LANGUAGE"], "tables of its own"),
        (["TOKENIZER", "--preset", "flat", "--text-tokenizer", "MISSING"], "cannot be loaded as a text tokenizer"),
        (["TOKENIZER", "--preset", "flat", "--grid", "4"], "--grid is '4'"),
        (["TOKENIZER", "--preset", "flat", "--grid", "2x3x4"], "grids"),
        (["TOKENIZER", "--preset", "bits", "--embeddings", "EMBEDDINGS"], "sub-codes"),
        (["--preset", "flat"], "no published ids"),
        (["--preset", "emu3", "--grid", "4x4"], "pass your tokenizer"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_writes_nothing(folder, tmp_path, capsys, words, message):
    places = {
        "TOKENIZER": folder / "tokenizer", "CONTINUOUS": folder / "continuous", "MISSING": folder / "missing",
        "LANGUAGE": folder / "language-model", "EMBEDDINGS": tmp_path / "e.safetensors",
    }  # fmt: skip
    out = tmp_path / "v.json"
    assert run(*(places.get(word, word) for word in words), "--out", out) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_not_overwritten(tmp_path, capsys):
    out = tmp_path / "v.json"
    out.write_text("mine")
    assert run("--preset", "emu3", "--out", out) == 2
    assert "already exists" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert run("--preset", "emu3", "--out", out, "--overwrite") == 0
