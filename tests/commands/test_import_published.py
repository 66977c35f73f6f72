"""`smalti import`: convert a published checkpoint to a folder for `smalti.load`."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import smalti
from smalti import load_image, save_image
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


@pytest.mark.parametrize(("name", "family"), [("uniwetok_bitdance", "wetok"), ("uniwetok_hybrid", "uniwetok")])
def test_tokens_of_128_bits_from_the_publishers_files(tmp_path, vectors, monkeypatch, name, family):
    """BitDance's files are NAME.safetensors and NAME_config.json. A position takes 16 bytes in a token file."""
    monkeypatch.chdir(tmp_path)
    published = vectors(name)
    save_file(published.state_dict, "published.safetensors")
    Path("published_config.json").write_text(json.dumps(published.config))
    files = ("published.safetensors", "--config", "published_config.json")
    assert main(["import", family, *files, "--out", "imported"]) == 0
    save_image(published["input"][0], "photo.png")
    assert main(["tokenize", "photo.png", "-o", "photo.safetensors", "--tokenizer", "imported"]) == 0
    tokens = load_file("photo.safetensors")["ids"]
    assert (tokens.dtype, tokens.shape) == (torch.uint8, (1, 8 * 12, 16))
    expected = smalti.load("imported").tokenize(load_image("photo.png"))
    assert torch.equal(tokens.long(), expected.ids)
    assert main(["detokenize", "photo.safetensors", "-o", "decoded.png"]) == 0
    assert load_image("decoded.png").shape == (1, 3, 32, 48)


def test_help_lists_every_family(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["import", "--help"])
    assert ", ".join(families()) in " ".join(capsys.readouterr().out.split())
