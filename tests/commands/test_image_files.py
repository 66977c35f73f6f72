"""`smalti tokenize`, `detokenize` and `reconstruct` with images: what they write, and the errors for bad input.

The tokenizers are float64: rounding differences between code paths do not change 8-bit pixels or ids.
"""

import os
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data as photos

import smalti
from smalti.__main__ import main
from smalti.data import EvaluationTransform
from smalti.errors import SmaltiError
from smalti.export.token_files import load_tokens
from smalti.images import decode_image
from smalti.tokenizers.checkpoints import save

WITH_TOKENIZER = ("--tokenizer", "tokenizer")


@pytest.fixture
def work(tmp_path, small, monkeypatch):
    """Create a working folder with tokenizers, a photo, and a folder of photos with a subfolder."""
    save(small().double(), tmp_path / "tokenizer")
    save(small(seed=5).double(), tmp_path / "other")
    save(small(generative=True).double(), tmp_path / "generative")
    chelsea = Image.fromarray(photos.chelsea()).resize((75, 50))
    chelsea.save(tmp_path / "photo.jpg")
    (tmp_path / "photos" / "subfolder").mkdir(parents=True)
    chelsea.save(tmp_path / "photos" / "a.png")
    chelsea.save(tmp_path / "photos" / "a.jpg")
    Image.fromarray(photos.coffee()).resize((60, 40)).save(tmp_path / "photos" / "subfolder" / "b.webp")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_tokenize_and_detokenize_equal_reconstruct(work, capsys):
    assert main(["tokenize", "photo.jpg", "-o", "photo.safetensors", *WITH_TOKENIZER]) == 0
    assert "bits per pixel" in capsys.readouterr().out
    assert main(["detokenize", "photo.safetensors", "-o", "detokenized.png"]) == 0
    assert main(["reconstruct", "photo.jpg", "-o", "reconstructed.png", *WITH_TOKENIZER]) == 0
    detokenized, reconstructed = Image.open("detokenized.png"), Image.open("reconstructed.png")
    assert detokenized.size == (75, 50)
    assert detokenized.tobytes() == reconstructed.tobytes()


def test_every_command_ends_with_what_it_wrote_and_the_next_command(work, capsys):
    def last_lines(*arguments):
        assert main([*arguments]) == 0
        return capsys.readouterr().out.splitlines()[-2:]

    assert last_lines("tokenize", "photo.jpg", "-o", "a b.safetensors", *WITH_TOKENIZER) == [
        "a b.safetensors: 75 x 50 pixels, 247 positions x 2 tokens, 0.527 bits per pixel",
        "To decode it: smalti detokenize 'a b.safetensors' --out decoded.png",
    ]
    assert last_lines("tokenize", "photos", "-o", "tokens", *WITH_TOKENIZER) == [
        "tokens: 3 files written",
        "To decode them: smalti detokenize tokens --out decoded",
    ]
    assert last_lines("detokenize", "tokens", "-o", "decoded") == ["decoded: 3 files written"]
    exported = last_lines("export", "tokenizer", "-o", "exported")
    assert exported[0].startswith("exported/model.safetensors")
    assert exported[1].endswith("smalti reconstruct photo.jpg --out reconstruction.png --tokenizer exported")


def test_progress_is_plain_lines_outside_a_terminal(work, capsys):
    assert main(["reconstruct", "photos", "-o", "reconstructed", *WITH_TOKENIZER]) == 0
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("Reconstructing: 1/3 files, ")
    assert first.endswith(" left")


def test_environment_variable_names_the_tokenizer(work, monkeypatch, error_message):
    monkeypatch.delenv("SMALTI_TOKENIZER", raising=False)
    assert "SMALTI_TOKENIZER" in error_message("tokenize", "photo.jpg", "-o", "x.safetensors")
    monkeypatch.setenv("SMALTI_TOKENIZER", "tokenizer")
    assert main(["tokenize", "photo.jpg", "-o", "x.safetensors"]) == 0


def test_a_protocol_gives_one_size_in_batches_and_with_workers(work):
    prepare = EvaluationTransform(32, 32)
    sources = [work / "photos" / name for name in ("a.jpg", "a.png", "subfolder/b.webp")]
    expected = [smalti.load("tokenizer").tokenize(prepare(decode_image(path))[None].double()).ids for path in sources]
    for out, *options in (
        ["one"],
        ["batches", "--batch-size", "2"],
        ["workers", "--batch-size", "3", "--workers", "1"],
    ):
        assert main(["tokenize", "photos", "-o", out, *WITH_TOKENIZER, "--protocol", "square32", *options]) == 0
        array = smalti.load_tokens(out)
        assert array.shape == (3, 64, 2)
        assert (array == torch.cat(expected).numpy()).all()
    assert main(["detokenize", "batches", "-o", "decoded"]) == 0
    assert Image.open(work / "decoded" / "subfolder" / "b.png").size == (32, 32)


def test_a_folder_packs_into_one_file(work, error_message):
    pack = ("tokenize", "photos", "-o", "photos.safetensors", *WITH_TOKENIZER, "--pack")
    assert "b.webp is 60 x 40, but a.jpg is 75 x 50, and --pack needs one size" in error_message(*pack)
    assert not (work / "photos.safetensors").exists()  # never with the files of the first size only
    assert main([*pack, "--protocol", "square32"]) == 0
    content = load_tokens(work / "photos.safetensors")
    assert content.names == ("a.jpg", "a.png", "subfolder/b.webp")
    assert main(["tokenize", "photos", "-o", "single", *WITH_TOKENIZER, "--protocol", "square32"]) == 0
    assert (smalti.load_tokens("photos.safetensors") == smalti.load_tokens("single")).all()
    assert smalti.load("tokenizer").detokenize(content.tokens).shape == (3, 3, 32, 32)
    assert "already exists" in error_message(*pack)
    assert "is for a folder" in error_message("tokenize", "photo.jpg", "-o", "x.safetensors", *WITH_TOKENIZER, "--pack")


def test_existing_files_are_skipped_if_they_are_complete_and_of_this_tokenizer(work, capsys, error_message):
    assert main(["tokenize", "photos/subfolder", "-o", "tokens/subfolder", *WITH_TOKENIZER]) == 0
    written = (work / "tokens" / "subfolder" / "b.safetensors").stat().st_mtime_ns
    again = ["tokenize", "photos", "-o", "tokens", "--skip-existing"]
    assert main([*again, *WITH_TOKENIZER]) == 0
    assert "tokens: 2 files written" in capsys.readouterr().out
    assert (work / "tokens" / "subfolder" / "b.safetensors").stat().st_mtime_ns == written
    assert main([*again, *WITH_TOKENIZER]) == 0
    assert "all 3 files were tokenized before" in capsys.readouterr().out
    assert "was made by another tokenizer" in error_message(*again, "--tokenizer", "other")
    (work / "tokens" / "subfolder" / "b.safetensors").write_bytes(b"cut")
    assert "b.safetensors is damaged" in error_message(*again, *WITH_TOKENIZER)
    assert "exclude each other" in error_message(*again, *WITH_TOKENIZER, "--overwrite")


def test_existing_files_of_another_size_are_refused(work, error_message):
    again = ["tokenize", "photos", "-o", "tokens", *WITH_TOKENIZER, "--skip-existing", "--protocol"]
    assert main([*again, "square32"]) == main([*again, "square32"]) == 0
    assert "was made with another protocol (size [32, 32], not [16, 16])" in error_message(*again, "square16")


def test_tokens_that_no_array_holds_are_refused(work):
    assert main(["tokenize", "photos", "-o", "tokens", *WITH_TOKENIZER]) == 0
    with pytest.raises(SmaltiError, match=r"60 x 40 pixels and .* of 75 x 50 pixels, which no array"):
        smalti.load_tokens("tokens")
    assert main(["tokenize", "photo.jpg", "-o", "mixed/a.safetensors", *WITH_TOKENIZER]) == 0
    assert main(["tokenize", "photo.jpg", "-o", "mixed/b.safetensors", "--tokenizer", "other"]) == 0
    with pytest.raises(SmaltiError, match="by another tokenizer"):
        smalti.load_tokens("mixed")


def test_folders_keep_their_structure(work):
    assert main(["tokenize", "photos", "-o", "tokens", *WITH_TOKENIZER]) == 0
    assert main(["detokenize", "tokens", "-o", "detokenized"]) == 0
    assert main(["reconstruct", "photos", "-o", "reconstructed", *WITH_TOKENIZER]) == 0
    written = sorted(p.relative_to(work / "detokenized").as_posix() for p in (work / "detokenized").rglob("*.png"))
    assert written == ["a.jpg.png", "a.png.png", "subfolder/b.png"]  # a.jpg and a.png get different names
    for name in written:
        assert (work / "detokenized" / name).read_bytes() == (work / "reconstructed" / name).read_bytes()


def test_seed_determines_the_noise(work):
    def reconstruct(seed):
        options = ["--tokenizer", "generative", "--overwrite", "--seed", str(seed)]
        assert main(["reconstruct", "photo.jpg", "-o", "x.png", *options]) == 0
        return (work / "x.png").read_bytes()

    assert reconstruct(0) == reconstruct(0)
    assert reconstruct(0) != reconstruct(1)


def test_existing_files_are_kept_without_overwrite(work, error_message):
    (work / "precious.png").write_text("mine")
    message = error_message("reconstruct", "photo.jpg", "-o", "precious.png", *WITH_TOKENIZER)
    assert "--overwrite" in message
    assert (work / "precious.png").read_text() == "mine"


def test_tokens_of_another_tokenizer_are_rejected(work, error_message):
    assert main(["tokenize", "photo.jpg", "-o", "p.safetensors", *WITH_TOKENIZER]) == 0
    detokenize = ("detokenize", "p.safetensors", "-o", "x.png")
    assert "another tokenizer" in error_message(*detokenize, "--tokenizer", "other")
    shutil.rmtree("tokenizer")
    assert "is not at tokenizer: pass its path with --tokenizer" in error_message(*detokenize)


def test_token_files_name_nothing_outside_of_the_working_directory(work, monkeypatch, capsys):
    assert main(["tokenize", "photos", "-o", "tokens", "--tokenizer", str(work / "tokenizer")]) == 0
    assert "../../tokenizer" in (work / "tokens" / "subfolder" / "b.safetensors").read_bytes().decode("latin-1")
    for file in (work / "tokens").rglob("*.safetensors"):
        assert str(work).encode() not in file.read_bytes()
    (work / "moved").mkdir()
    (work / "tokens").rename(work / "moved" / "tokens")
    (work / "tokenizer").rename(work / "moved" / "tokenizer")
    assert main(["detokenize", "moved/tokens", "-o", "decoded"]) == 0  # the path is relative to each file

    monkeypatch.chdir(work / "photos")
    assert main(["tokenize", "a.png", "-o", "a.safetensors", "--tokenizer", "../moved/tokenizer"]) == 0
    assert "detokenize a.safetensors --out decoded.png --tokenizer ../moved/tokenizer" in capsys.readouterr().out
    assert load_tokens(work / "photos" / "a.safetensors").tokenizer == "tokenizer"


def test_invalid_input_gives_one_sentence_and_writes_nothing(work, error_message):
    (work / "broken.jpg").write_bytes((work / "photo.jpg").read_bytes()[:900])
    (work / "text.jpg").write_text("no image")
    (work / "text.safetensors").write_text("no tokens")
    save_file({"weight": torch.zeros(1)}, work / "weights.safetensors")
    (work / "empty").mkdir()
    (work / "run" / "checkpoints").mkdir(parents=True)
    for name in ("last.ckpt", "step=9.ckpt"):
        (work / "run" / "checkpoints" / name).touch()
    for arguments, expected in (
        (("tokenize", "broken.jpg", "-o", "x.safetensors", *WITH_TOKENIZER), "broken.jpg"),
        (("tokenize", "text.jpg", "-o", "x.safetensors", *WITH_TOKENIZER), "text.jpg"),
        (("tokenize", "absent.jpg", "-o", "x.safetensors", *WITH_TOKENIZER), "absent.jpg"),
        (("tokenize", "phots/a.png", "-o", "x.safetensors", *WITH_TOKENIZER), "there is no folder phots"),
        (("tokenize", "absent.jpg", "-o", "x", *WITH_TOKENIZER), "absent.jpg"),
        (("tokenize", "photos", "-o", "photo.jpg/x", *WITH_TOKENIZER), "photo.jpg is not a folder"),
        (("tokenize", "photos", "photos", "-o", "x", *WITH_TOKENIZER), "pass a folder for several files"),
        (("tokenize", "photos", "-o", "x", *WITH_TOKENIZER, "--overwite"), "did you mean --overwrite?"),
        (("tokenize", "photos", *WITH_TOKENIZER), "Missing: --out"),
        (("reconstruct", "photos", "-o", "x", *WITH_TOKENIZER, "--seed", "-1"), "at least 0"),
        (("reconstruct", "photos", "-o", "x", "--tokenizer", "photos"), "not an exported tokenizer"),
        (("detokenize", "absent", "-o", "x.png"), "no token file or folder at absent"),
        (("export", "run", "-o", "x"), "such as run/checkpoints/last.ckpt"),
        (("tokenize", "empty", "-o", "x", *WITH_TOKENIZER), "empty"),
        (("tokenize", "photo.jpg", "-o", "x.safetensors", "--tokenizer", "nowhere"), "nowhere"),
        (("tokenize", "photo.jpg", "-o", "x.safetensors", *WITH_TOKENIZER, "--device", "tpu:9"), "tpu:9"),
        (("reconstruct", "photo.jpg", "-o", "x.xyz", *WITH_TOKENIZER), "x.xyz"),
        (("detokenize", "text.safetensors", "-o", "x.png"), "damaged"),
        (("detokenize", "weights.safetensors", "-o", "x.png"), "token file"),
        (("detokenize", "empty", "-o", "x"), "no token files"),
        (("export", "photo.jpg", "-o", "x"), "photo.jpg"),
        (("export", "tokenizer", "-o", "other"), "--overwrite"),
    ):
        assert expected in error_message(*arguments), arguments
    assert not list(work.glob("x*"))


def test_an_unreadable_file_in_a_folder_is_skipped(work, error_message):
    (work / "photos" / "broken.jpg").write_bytes((work / "photo.jpg").read_bytes()[:900])
    message = error_message("tokenize", "photos", "-o", "tokens", *WITH_TOKENIZER)
    assert "1 of 4 files was skipped" in message
    assert "broken.jpg" in message
    assert len(list((work / "tokens").rglob("*.safetensors"))) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused_at_the_start(work, error_message):
    (work / "locked").mkdir(mode=0o500)
    assert "no permission to write" in error_message("tokenize", "photos", "-o", "locked/x", *WITH_TOKENIZER)
    (work / "photos").chmod(0)
    assert "photos" in error_message("tokenize", "photos", "-o", "tokens", *WITH_TOKENIZER)
    (work / "photos").chmod(0o700)
