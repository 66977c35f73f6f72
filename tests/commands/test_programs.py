"""`smalti export --format torch` and `smalti verify`, as a user runs them. Those of ONNX run in tests/test_docs.py."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from smalti.__main__ import main
from smalti.commands.verify import print_table
from smalti.export.programs.comparison import Difference
from smalti.export.programs.manifest import MANIFEST
from smalti.export.programs.verify import Verification
from smalti.files import sha256
from smalti.tokenizers.checkpoints import save


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Return a folder with programs of a small tokenizer, written by the command."""
    import torch

    from smalti.tokenizers import wetok
    from smalti.tokenizers.bottlenecks import GQ

    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    save(wetok(GQ(2, 4), stride=2, channels=4, blocks=1, groups=None), folder / "tokenizer")
    assert main(["export", str(folder / "tokenizer"), "--out", str(folder / "programs"), "--format", "torch"]) == 0
    return folder / "programs"


def verify(folder, *options):
    arguments = ["--data", "photos:validation", "--samples", "3", "--size", "16", "--batch-size", "2", *options]
    return main(["verify", str(folder), *arguments])


def test_verify_counts_ids_and_writes_its_result(programs, capsys):
    assert verify(programs) == 0
    assert "torch.export" in capsys.readouterr().out
    content = json.loads((programs / "verification.json").read_text())
    assert content["passed"]
    assert content["data"]["samples"] == 3
    rows = {(row["runtime"], row["mode"]): row for row in content["results"]}
    assert rows.keys() == {("torch", "batched"), ("torch.export", "one by one"), ("torch.export", "batched")}
    for row in rows.values():
        assert row["tokens"] == 3 * 8 * 8 * 2
        assert row["broken"] == 0
        assert row["pixels"] <= 1e-4
        assert row["median_margin"] > 1e-5


def test_no_number_of_the_table_is_cut(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    ids = Difference(tokens=1_234_567, mismatches=123_456, broken=12_345, largest_margin=1.2e-06, pixels=3.4e-06)
    latents = Difference(latents=5.6e-06, pixels=7.8e-06)
    for difference in (ids, latents):
        print_table(Verification({("ONNX Runtime", "one by one"): difference}, 4))
    words = capsys.readouterr().out.split()
    assert {"1234567", "123456", "12345", "1.2e-06", "3.4e-06", "5.6e-06", "7.8e-06", "BROKEN"} <= set(words)


def test_verify_finds_programs_of_other_weights(programs, tmp_path, capsys):
    folder = tmp_path / "programs"
    shutil.copytree(programs, folder)
    weights = load_file(folder / "model.safetensors")
    weights["encoder.conv_out.weight"] = -weights["encoder.conv_out.weight"]
    save_file(weights, folder / "model.safetensors")
    for name, key in (("config.json", "sha256"), (MANIFEST, "tokenizer_sha256")):
        content = json.loads((folder / name).read_text())
        content[key] = sha256(folder / "model.safetensors")
        (folder / name).write_text(json.dumps(content))
    assert verify(folder) == 1
    assert "BROKEN" in capsys.readouterr().out
    assert not json.loads((folder / "verification.json").read_text())["passed"]


def test_bad_input_is_one_sentence_and_writes_nothing(programs, tmp_path, capsys):
    cases = {
        ("verify", str(tmp_path / "missing")): "There is no folder at",
        ("verify", str(tmp_path)): "has no programs.json",
        (
            "export",
            str(programs),
            "--out",
            str(programs),
            "--format",
            "torch",
        ): "already contains programs",
        ("export", str(programs), "--out", str(tmp_path / "a"), "--compile"): "--compile needs --format torch",
    }
    before = sorted(programs.iterdir())
    for arguments, message in cases.items():
        assert main(list(arguments)) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert sorted(programs.iterdir()) == before
    assert not (tmp_path / "a").exists()


def test_a_missing_package_names_its_extra(programs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    assert main(["export", str(programs), "--out", str(tmp_path / "a"), "--format", "onnx"]) == 2
    assert "onnxscript, which is not installed: run `pip install -e '.[onnx]'`" in capsys.readouterr().err
