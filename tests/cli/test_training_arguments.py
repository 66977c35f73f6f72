"""The arguments of training commands before they are parsed: recipes, the settings of a run, and fast checks."""

import subprocess
import sys

import pytest
import yaml

from smalti.cli.training_arguments import prepare_arguments, split_options
from smalti.errors import SmaltiError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return the checkpoint of a run with settings; the current directory is a temporary folder."""
    folder = tmp_path / "runs" / "version_0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("{model: {weights: {l1: 1.0}}, data: {class_path: ImageData}}")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.touch()
    monkeypatch.chdir(tmp_path)
    return checkpoint


def recipe_of(arguments):
    assert arguments[0] == "-c"
    return yaml.safe_load(arguments[1])


def test_recipes_become_one_recipe_before_all_options():
    options = [
        "--trainer.max_steps",
        "3",
        "-c",
        "{model: {weights: {l1: 1.0}}, data: {}}",
        "--config={ema: {decay: 0.5}}",
    ]
    prepared = prepare_arguments("fit", options)
    assert recipe_of(prepared) == {"model": {"weights": {"l1": 1.0}}, "data": {}, "ema": {"decay": 0.5}}
    assert prepared[2:] == ["--trainer.max_steps", "3"]
    assert prepare_arguments("fit", prepared) == prepared


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_without_a_recipe_the_settings_of_the_run_are_used(run, command):
    for option in (["--ckpt_path", "runs/version_0/checkpoints/last.ckpt"], [f"--ckpt_path={run}"]):
        prepared = prepare_arguments(command, ["--trainer.max_steps", "9", *option])
        assert recipe_of(prepared)["model"] == {"weights": {"l1": 1.0}}
        assert prepared[2:] == ["--trainer.max_steps", "9", *option]


def test_a_recipe_replaces_the_settings_of_the_run(run):
    prepared = prepare_arguments("fit", ["-c", "{model: {}, data: {}}", "--ckpt_path", str(run)])
    assert recipe_of(prepared) == {"model": {}, "data": {}}


def test_muon_replaces_the_optimizer_of_the_recipe_with_all_its_arguments():
    """Its learning rate is no learning rate of Adam."""
    recipe = "{model: {optimizer: {class_path: Adam, init_args: {lr: 0.1}}}, data: {}}"
    for option in (["--model.optimizer", "Muon"], ["--model.optimizer.class_path=Muon"]):
        prepared = prepare_arguments("fit", [*option, "-c", recipe, "--model.optimizer.momentum", "0.9"])
        assert recipe_of(prepared)["model"]["optimizer"] == {"class_path": "smalti.trainers.Muon"}
        assert prepared[2:] == ["--model.optimizer.momentum", "0.9"]
        assert prepare_arguments("fit", prepared) == prepared
    kept = prepare_arguments("fit", ["-c", recipe, "--model.optimizer", "AdamW"])
    assert kept[2:] == ["--model.optimizer", "torch.optim.AdamW"]


def test_adam_with_8_bits_keeps_the_arguments_of_adam():
    recipe = (
        "{model: {optimizer: {class_path: AdamW, init_args: {lr: 2.0e-5, weight_decay: 0.0, fused: true}}}, data: {}}"
    )
    prepared = prepare_arguments(
        "fit", ["-c", recipe, "--model.optimizer", "AdamW8bit", "--model.optimizer.eps", "1e-6"]
    )
    assert recipe_of(prepared)["model"]["optimizer"] == {
        "class_path": "bitsandbytes.optim.AdamW8bit",
        "init_args": {"lr": 2.0e-5, "weight_decay": 0.0},
    }
    assert prepared[2:] == ["--model.optimizer.eps", "1e-6"]
    muon = "{model: {optimizer: {class_path: Muon, init_args: {lr: 0.01}}}, data: {}}"
    prepared = prepare_arguments("fit", ["-c", muon, "--model.optimizer", "AdamW8bit"])
    assert "init_args" not in recipe_of(prepared)["model"]["optimizer"]


def test_short_names_of_builders_are_expanded():
    arguments = ["-c", "{model: {}, data: {}}", "--model.tokenizer", "wetok"]
    assert prepare_arguments("fit", arguments)[3] == "smalti.tokenizers.wetok"
    assert prepare_arguments("fit", ["-c", "{model: {}, data: {}}", "--model.tokenizer=ltx"])[2:] == [
        "--model.tokenizer=smalti.tokenizers.ltx"
    ]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("fit", [], "No model is given: pass a recipe"),
        ("fit", ["-c", "{model: {}}"], "No data is given: pass --data.train PATH --data.validation PATH"),
        ("fit", ["-c", "nowhere.yaml"], "There is no recipe 'nowhere.yaml'"),
        ("fit", ["--ckpt_path", "nowhere.ckpt"], "There is no checkpoint nowhere.ckpt"),
        ("validate", ["-c", "quickstart.yaml"], "pass --ckpt_path"),
    ],
)
def test_what_is_missing_is_named(command, arguments, message):
    with pytest.raises(SmaltiError, match=message):
        prepare_arguments(command, arguments)


def test_help_needs_neither_model_nor_data():
    for option in ("--help", "-h", "--print_config", "--data.help", "--model.gan.help"):
        assert prepare_arguments("fit", [option]) == [option]


def test_an_option_is_removed_with_its_value():
    assert split_options(["-c", "a", "--ckpt_path", "b", "--x", "1"], "--ckpt_path") == (["b"], ["-c", "a", "--x", "1"])
    assert split_options(["--ckpt_path=b", "--x"], "--ckpt_path") == (["b"], ["--x"])
    assert split_options(["--x", "--ckpt_path"], "--ckpt_path") == ([None], ["--x"])


def test_checks_of_arguments_do_not_import_lightning():
    code = "import sys, smalti.commands.fit as fit\ntry: fit.run('fit', [])\nexcept Exception: pass\n"
    code += "assert not {'torch', 'lightning'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
