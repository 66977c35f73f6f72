"""Exports, checkpoints, token files and recipes of version 0.1 keep working. See tests/fixtures/README.md."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import smalti
from smalti.__main__ import main
from smalti.cli.build_tokenizer import build_tokenizer
from smalti.export.token_files import load_tokens
from smalti.legacy import upgrade_recipe
from smalti.tokenizers.checkpoints import fingerprint
from smalti.tokenizers.configurable import from_config, get_config, normalize_config

OLD = Path(__file__).parent / "fixtures" / "v0.1"

# CPUs sum in different orders, which adds up to float32 rounding errors of about ten layers, on values of about 1.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def expected():
    return load_file(OLD / "expected.safetensors")


@pytest.mark.parametrize("family", ["wetok", "onevae", "ltx"])
def test_exports_load_and_compute_the_same(family, expected):
    tokenizer = smalti.load(OLD / family)
    with torch.no_grad():
        latents = tokenizer.encode(expected["clip"])
        reconstruction = tokenizer.decode(latents, torch.Generator().manual_seed(2))
    if f"{family}.ids" in expected:
        # A value within float32 rounding of a decision boundary may flip on another CPU.
        assert (latents.code.ids == expected[f"{family}.ids"]).float().mean() > 0.98
    agree = torch.isclose(reconstruction, expected[f"{family}.reconstruction"], **TOLERANCE)
    assert agree.float().mean() > 0.95


def test_token_files_decode_to_the_same_pixels(expected):
    content = load_tokens(OLD / "tokens.safetensors")
    assert content.fingerprint == fingerprint(OLD / "onevae")
    tokenizer = smalti.load(OLD / "onevae")
    with torch.no_grad():
        pixels = tokenizer.detokenize(content.tokens)
    torch.testing.assert_close(pixels, expected["onevae.reconstruction"], **TOLERANCE)


@pytest.mark.parametrize(
    "config", json.loads((OLD / "classes.json").read_text()), ids=lambda c: c["class_path"].rpartition(".")[2]
)
def test_class_paths_of_version_0_1_resolve_to_public_paths(config):
    """A configuration that is read and written again describes the same module by public paths."""
    written = get_config(from_config(config))
    assert written == normalize_config(config)
    assert from_config(written).state_dict().keys() == from_config(config).state_dict().keys()

    def paths(value):
        if isinstance(value, dict):
            yield from ([value["class_path"]] if "class_path" in value else [])
            for child in value.values():
                yield from paths(child)

    packages = {"smalti", "smalti.tokenizers", "smalti.tokenizers.bottlenecks"}
    assert {path.rpartition(".")[0] for path in paths(written)} <= packages


def test_an_export_is_written_with_public_names(tmp_path):
    assert main(["export", str(OLD / "onevae"), "-o", str(tmp_path / "again")]) == 0
    config = json.loads((tmp_path / "again" / "config.json").read_text())["tokenizer"]
    assert config["class_path"] == "smalti.Tokenizer"
    assert config["init_args"]["encoder"]["class_path"] == "smalti.tokenizers.OneVAEEncoder"
    bottleneck = config["init_args"]["bottleneck"]["init_args"]
    assert bottleneck["discrete_probability"] == 0.25
    assert bottleneck["continuous"]["init_args"]["initial_std"] == 0.5


def test_a_run_of_version_0_1_is_resumed(tmp_path, monkeypatch):
    """With the config.yaml and the checkpoint of the run, training ends with the same weights as in version 0.1."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["smalti"])
    shutil.copytree(OLD / "run", "old")
    command = ["fit", "-c", "old/config.yaml", "--ckpt_path", "old/checkpoints/step=2.ckpt"]
    assert main([*command, "--trainer.logger.init_args.save_dir", "runs"]) == 0
    ours = smalti.load("runs/version_0/checkpoints/last.ckpt").state_dict()
    theirs = load_file(OLD / "run" / "expected.safetensors")
    assert {f"tokenizer.{name}" for name in ours} == set(theirs)
    for name, weight in ours.items():
        # Adam normalizes gradients: rounding errors can move a weight by a fraction of the learning rate, 1e-3.
        torch.testing.assert_close(weight, theirs[f"tokenizer.{name}"], rtol=0, atol=2e-4, msg=name)


def test_a_new_argument_with_a_default_breaks_neither_loading_nor_resuming(tmp_path, monkeypatch):
    """A checkpoint without an argument is equivalent to one that was written before the argument existed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["smalti"])
    networks = {"channels": 4, "multipliers": [1], "blocks": 1, "groups": None}
    recipe = yaml.safe_load((OLD / "run" / "config.yaml").read_text())
    tokenizer = recipe["model"]["tokenizer"]["init_args"]
    tokenizer["encoder"]["init_args"] = {"out_dim": 4, **networks}
    tokenizer["bottleneck"] = {"class_path": "smalti.tokenizers.bottlenecks.GQ", "init_args": {"groups": 2, "bits": 2}}
    tokenizer["decoder"]["init_args"] = {"in_dim": 4, **networks}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["fit", "-c", "recipe.yaml", "--trainer.logger.init_args.save_dir", "first"]) == 0
    file = tmp_path / "first" / "version_0" / "checkpoints" / "step=2.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    arguments = checkpoint["smalti_tokenizer"]["init_args"]["bottleneck"]["init_args"]
    for name in ("codebook_entropy", "temperature", "log_offset"):
        del arguments[name]
    torch.save(checkpoint, file)
    assert smalti.load(file).quantizer.temperature == 0.01
    options = ["--ckpt_path", str(file), "--trainer.logger.init_args.save_dir", "second"]
    assert main(["fit", "-c", "recipe.yaml", *options]) == 0
    uninterrupted, resumed = (
        smalti.load(f"{run}/version_0/checkpoints/last.ckpt").state_dict() for run in ("first", "second")
    )
    for name, weight in uninterrupted.items():
        assert torch.equal(weight, resumed[name]), name


@pytest.mark.parametrize(
    "recipe", sorted((OLD / "recipes").rglob("*.yaml")), ids=lambda p: p.relative_to(OLD).as_posix()
)
def test_recipes_of_version_0_1_are_accepted(recipe, tmp_path, monkeypatch, capsys):
    """Every section, class and argument of an old recipe is accepted under its old name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["smalti"])
    options = ["-c", str(recipe)]
    if recipe.parent.name == "data":
        options = ["-c", str(OLD / "recipes" / "quickstart.yaml"), *options]
    elif "data:" not in recipe.read_text():
        options += ["-c", "data/photos.yaml"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *options, "--print_config"])
    assert not stopped.value.code
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["weights"]
    old = yaml.safe_load(recipe.read_text())
    assert upgrade_recipe(upgrade_recipe(old)) == upgrade_recipe(old)


@pytest.mark.parametrize(
    "name",
    sorted(
        path.relative_to(OLD / "recipes").as_posix()
        for path in (OLD / "recipes").rglob("*.yaml")
        if path.parent.name != "data"
    ),
)
def test_recipes_build_the_networks_of_version_0_1(name):
    """Runs and exports of version 0.1 continue with the recipe of the same name."""
    # The quickstart of OneVAE has other levels now. Its runs take minutes, and continue with their own config.yaml.
    levels = "{quantizer: {init_args: {levels: [8, 8, 8, 5, 5, 5]}}}"
    discrete = f"{{init_args: {{discrete: {{init_args: {levels}}}}}}}"
    recipe = f"{{model: {{tokenizer: {{init_args: {{bottleneck: {discrete}}}}}}}}}"
    changed = [recipe] if name == "onevae/quickstart.yaml" else []
    if name == "quickstart.yaml":  # it has more levels for larger components, and twice the channels
        fsq = "{class_path: FSQ, init_args: {levels: [16, 16, 16, 16], tokens_per_position: 4}}"
        changed = [f"{{model: {{tokenizer: {{init_args: {{bottleneck: {fsq}, channels: 8}}}}}}}}"]
    with torch.device("meta"):
        old, new = build_tokenizer(OLD / "recipes" / name), build_tokenizer(name, *changed)
    if name == "ltx/quickstart.yaml":  # its encoder has strided convolutions now, for a linear start
        assert new.encoder.stride == old.encoder.stride
    else:
        assert get_config(new) == get_config(old)


@pytest.mark.parametrize(
    "path", ["PerceptualLoss", "smalti.trainers.PerceptualLoss", "smalti.trainers.losses.PerceptualLoss"]
)
@pytest.mark.parametrize("name", ["allow_proxy", "stand_in"])
def test_recipes_with_the_removed_argument_of_the_perceptual_loss_load(path, name):
    loss = {"class_path": path, "init_args": {"network": "efflite0", name: True}}
    upgraded = upgrade_recipe({"model": {"losses": {"perceptual": loss}}})["model"]["losses"]["perceptual"]
    assert upgraded["init_args"] == {"network": "efflite0"}
