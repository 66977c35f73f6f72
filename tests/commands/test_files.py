"""The commands people type: what they write, and what they say when the input is bad."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from skimage import data as photos

import smalti
from smalti.__main__ import main
from smalti.tokenizers.checkpoints import save


@pytest.fixture
def work(tmp_path, small, monkeypatch):
    """A folder with a tokenizer, a photo, and a tree of photos."""
    save(small(), tmp_path / "tokenizer")
    save(small(seed=5), tmp_path / "other")
    save(small(generative=True), tmp_path / "generative")
    chelsea = Image.fromarray(photos.chelsea()).resize((75, 50))
    chelsea.save(tmp_path / "photo.jpg")
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    chelsea.save(tmp_path / "photos" / "a.png")
    chelsea.save(tmp_path / "photos" / "a.jpg")
    Image.fromarray(photos.coffee()).resize((60, 40)).save(tmp_path / "photos" / "deep" / "b.webp")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *arguments):
    """The one sentence that a command answers bad input with."""
    assert main([str(a) for a in arguments]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f"smalti {arguments[0]}: error: ")
    return message


def test_a_photo_there_and_back(work, capsys):
    assert main(["tokenize", "photo.jpg", "-o", "photo.safetensors", "--tokenizer", "tokenizer"]) == 0
    assert "bits a pixel" in capsys.readouterr().out
    assert main(["detokenize", "photo.safetensors", "-o", "back.png"]) == 0
    assert main(["reconstruct", "photo.jpg", "-o", "again.png", "--tokenizer", "tokenizer"]) == 0
    back, again = Image.open("back.png"), Image.open("again.png")
    assert back.size == (75, 50)
    assert back.tobytes() == again.tobytes()


def test_the_tokenizer_can_be_named_by_the_environment(work, monkeypatch, capsys):
    assert "SMALTI_TOKENIZER" in refused(capsys, "tokenize", "photo.jpg", "-o", "x.safetensors")
    monkeypatch.setenv("SMALTI_TOKENIZER", "tokenizer")
    assert main(["tokenize", "photo.jpg", "-o", "x.safetensors"]) == 0


def test_folders_keep_their_tree(work):
    assert main(["tokenize", "photos", "-o", "tokens", "--tokenizer", "tokenizer"]) == 0
    assert main(["detokenize", "tokens", "-o", "back"]) == 0
    assert main(["reconstruct", "photos", "-o", "again", "--tokenizer", "tokenizer"]) == 0
    written = sorted(p.relative_to(work / "back").as_posix() for p in (work / "back").rglob("*.png"))
    assert written == ["a.jpg.png", "a.png.png", "deep/b.png"]  # a.jpg and a.png must not share a name
    for name in written:
        assert (work / "back" / name).read_bytes() == (work / "again" / name).read_bytes()


def test_a_seed_decides_the_noise(work):
    def pixels(seed):
        options = ["--tokenizer", "generative", "--overwrite", "--seed", str(seed)]
        assert main(["reconstruct", "photo.jpg", "-o", "x.png", *options]) == 0
        return (work / "x.png").read_bytes()

    assert pixels(0) == pixels(0)
    assert pixels(0) != pixels(1)


def test_nothing_is_overwritten_unasked(work, capsys):
    (work / "precious.png").write_text("mine")
    message = refused(capsys, "reconstruct", "photo.jpg", "-o", "precious.png", "--tokenizer", "tokenizer")
    assert "--overwrite" in message
    assert (work / "precious.png").read_text() == "mine"


def test_tokens_of_another_tokenizer_are_refused(work, capsys):
    main(["tokenize", "photo.jpg", "-o", "p.safetensors", "--tokenizer", "tokenizer"])
    assert "another tokenizer" in refused(capsys, "detokenize", "p.safetensors", "-o", "x.png", "--tokenizer", "other")
    shutil.rmtree("tokenizer")
    assert "tokenizer" in refused(capsys, "detokenize", "p.safetensors", "-o", "x.png")


def test_damaged_and_foreign_files(work, capsys):
    (work / "broken.jpg").write_bytes((work / "photo.jpg").read_bytes()[:900])
    (work / "text.jpg").write_text("no image")
    (work / "text.safetensors").write_text("no tokens")
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, work / "foreign.safetensors")
    (work / "empty").mkdir()
    with_tokenizer = ("--tokenizer", "tokenizer")
    for words, expected in (
        (("tokenize", "broken.jpg", "-o", "x.safetensors", *with_tokenizer), "broken.jpg"),
        (("tokenize", "text.jpg", "-o", "x.safetensors", *with_tokenizer), "text.jpg"),
        (("tokenize", "absent.jpg", "-o", "x.safetensors", *with_tokenizer), "absent.jpg"),
        (("tokenize", "empty", "-o", "x", *with_tokenizer), "empty"),
        (("tokenize", "photo.jpg", "-o", "x.safetensors", "--tokenizer", "nowhere"), "nowhere"),
        (("tokenize", "photo.jpg", "-o", "x.safetensors", *with_tokenizer, "--device", "tpu:9"), "tpu:9"),
        (("reconstruct", "photo.jpg", "-o", "x.xyz", *with_tokenizer), "x.xyz"),
        (("detokenize", "text.safetensors", "-o", "x.png"), "damaged"),
        (("detokenize", "foreign.safetensors", "-o", "x.png"), "no token file"),
        (("detokenize", "empty", "-o", "x"), "no token files"),
        (("export", "photo.jpg", "-o", "x"), "photo.jpg"),
        (("export", "tokenizer", "-o", "other"), "--overwrite"),
    ):
        assert expected in refused(capsys, *words), words
    assert not list(work.glob("x*"))


def test_a_bad_file_in_a_folder_does_not_stop_the_others(work, capsys):
    (work / "photos" / "broken.jpg").write_bytes((work / "photo.jpg").read_bytes()[:900])
    message = refused(capsys, "tokenize", "photos", "-o", "tokens", "--tokenizer", "tokenizer")
    assert "1 of 4" in message
    assert len(list((work / "tokens").rglob("*.safetensors"))) == 3


def test_import_and_its_faults(work, stage1, capsys):
    import yaml

    torch.save({"state_dict": stage1.state_dict}, work / "published.ckpt")
    nested = {"model": {"class_path": "their.Model", "init_args": stage1.config}}
    (work / "c.yaml").write_text(yaml.safe_dump(nested))
    assert main(["import", "wetok", "published.ckpt", "--config", "c.yaml", "--out", "imported"]) == 0
    tokenizer = smalti.load("imported")
    assert torch.equal(tokenizer.tokenize(stage1["input"]).ids.unflatten(1, (16, 16)), stage1["indices"])
    provenance = json.loads((work / "imported" / "config.json").read_text())["provenance"]
    assert provenance["family"] == "wetok"
    part = {key: value for key, value in stage1.state_dict.items() if key != "decoder.conv_in.bias"}
    torch.save(part, work / "part.ckpt")
    to = ("--config", "c.yaml", "--out", "x")
    assert "decoder.conv_in.bias" in refused(capsys, "import", "wetok", "part.ckpt", *to)
    assert "no importer" in refused(capsys, "import", "vqgan", "published.ckpt", *to)
    (work / "c.yaml").write_text("just text")
    assert "c.yaml" in refused(capsys, "import", "wetok", "published.ckpt", *to)


def test_evaluate_writes_what_repeats_it(work, capsys):
    words = ["--tokenizer", "tokenizer", "--data", "photos:validation", "--protocol", "square32", "--workers", "0"]
    assert main(["evaluate", *words, "--out", "report"]) == 0
    metrics = json.loads((work / "report" / "metrics.json").read_text())
    assert metrics["samples"] == 4
    assert {"psnr", "ssim"} <= metrics["metrics"].keys()
    assert metrics["protocol"]["crop"] == 32
    assert metrics["data"]["source"] == "photos:validation"
    assert len(metrics["tokenizer"]["fingerprint"]) == 64
    if "perceptual_efflite0" in metrics["metrics"]:  # no network: the stand-in, under its own name
        assert metrics["metrics"]["perceptual_efflite0"]["comparable"] is False
        assert not {"lpips"} & metrics["metrics"].keys()
    assert (work / "report" / "contact_sheet.png").exists()
    assert "not overwritten" in refused(capsys, "evaluate", *words, "--out", "report")
    assert "square0" in refused(capsys, "evaluate", *words[:5], "square0", "--out", "other")
    assert "nowhere" in refused(capsys, "evaluate", *words[:3], "nowhere", "--out", "other2")


def test_unknown_commands_and_help(capsys):
    assert main(["fitt"]) == 2
    assert "There is no command 'fitt'" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "tokenize" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert main(["recipes"]) == 0
    assert "wetok/f16.yaml" in capsys.readouterr().out


def test_help_does_not_import_torch():
    code = "import sys; from smalti.__main__ import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip().endswith("False")


def test_import_names_every_family(capsys):
    from smalti.tokenizers.importers import families

    with pytest.raises(SystemExit, match="0"):
        main(["import", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert ", ".join(families()) in told
