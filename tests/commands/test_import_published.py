"""`smalti import`: convert a published checkpoint to a folder for `smalti.load`."""

import json
import runpy
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import smalti
from smalti import load_image, save_image
from smalti.__main__ import main
from smalti.tokenizers.importers import families

DIFFUSERS_MODELS = runpy.run_path(str(Path(__file__).parents[1] / "diffusers_models.py"))


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


@pytest.mark.parametrize("model", ["sd", "wan21", "wan22", "ltx"])
def test_folders_of_diffusers_are_imported_with_a_report(model, tmp_path, monkeypatch, capsys, error_message):
    monkeypatch.setattr("sys.argv", ["smalti"])
    source = DIFFUSERS_MODELS["write"](model, tmp_path / model)
    out = tmp_path / "out"
    assert main(["import", source, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    expected, imported = smalti.load(source), smalti.load(out)
    assert imported.encoder.streams == (model in ("sd", "wan21", "ltx"))
    x = torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(imported.encode(x).z, expected.encode(x).z, rtol=1e-4, atol=1e-5)
    elements = sum(weight.numel() for name, weight in imported.state_dict().items())
    assert (
        f"{source}: taken: {len(imported.state_dict())} weights with {elements:,} elements; sliced: none; " in printed
    )
    assert "new: none; dropped: none" in printed

    assert "leave out the checkpoint" in error_message("import", source, source, "--out", tmp_path / "x")
    weights = load_file(tmp_path / model / "diffusion_pytorch_model.safetensors")
    removed = next(key for key in weights if key.startswith("decoder."))
    save_file(
        {k: v for k, v in weights.items() if k != removed}, tmp_path / model / "diffusion_pytorch_model.safetensors"
    )
    assert removed in error_message("import", source, "--out", tmp_path / "x")
    config = json.loads((tmp_path / model / "config.json").read_text())
    (tmp_path / model / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderTiny"}))
    assert "'AutoencoderTiny', which is not supported" in error_message("import", source, "--out", tmp_path / "x")


def test_what_is_missing_is_one_sentence(error_message, tmp_path):
    assert "add the checkpoint" in error_message("import", "wetok", "--out", tmp_path / "x")
    assert "add --config" in error_message("import", "wetok", tmp_path / "a.ckpt", "--out", tmp_path / "x")
