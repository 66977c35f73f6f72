"""`smalti import`: convert a published checkpoint to a folder for `smalti.load`."""

import json

import pytest
import torch
import yaml

import smalti
from smalti.__main__ import main
from smalti.tokenizers.importers import families


def test_import_is_strict_and_records_provenance(tmp_path, stage1, monkeypatch, error_message):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": stage1.state_dict}, "published.ckpt")
    nested = {"model": {"class_path": "their.Model", "init_args": stage1.config}}
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(nested))
    assert main(["import", "wetok", "published.ckpt", "--config", "c.yaml", "--out", "imported"]) == 0
    tokenizer = smalti.load("imported")
    assert torch.equal(tokenizer.tokenize(stage1["input"]).ids.unflatten(1, (16, 16)), stage1["indices"])
    provenance = json.loads((tmp_path / "imported" / "config.json").read_text())["provenance"]
    assert provenance["family"] == "wetok"

    incomplete = {key: value for key, value in stage1.state_dict.items() if key != "decoder.conv_in.bias"}
    torch.save(incomplete, "incomplete.ckpt")
    options = ("--config", "c.yaml", "--out", "x")
    assert "decoder.conv_in.bias" in error_message("import", "wetok", "incomplete.ckpt", *options)
    assert "no importer" in error_message("import", "vqgan", "published.ckpt", *options)
    config.write_text("just text")
    assert "c.yaml" in error_message("import", "wetok", "published.ckpt", *options)
    assert not (tmp_path / "x").exists()


def test_help_lists_every_family(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["import", "--help"])
    assert ", ".join(families()) in " ".join(capsys.readouterr().out.split())
