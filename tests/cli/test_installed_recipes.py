"""Every installed recipe describes a whole model and is complete; its first lines say how to use it."""

import re
import runpy
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from smalti.__main__ import main
from smalti.cli.recipe_files import recipe_folder, recipe_names
from smalti.cli.recipes import load_recipes
from smalti.data import ImageData, MixedData, MultiSizeImageData, VideoData  # noqa: F401 - recipes name the classes that are imported
from smalti.tokenizers import wetok
from smalti.tokenizers.bottlenecks import KL
from smalti.tokenizers.checkpoints import save
from smalti.trainers import TokenizerTraining
from smalti.trainers.schedules import build_schedule

DATA_RECIPES = [name for name in recipe_names() if name.startswith("data/")]
CLUSTER_RECIPES = [name for name in recipe_names() if name.startswith("cluster/")]
MODEL_RECIPES = [name for name in recipe_names() if name not in (*DATA_RECIPES, *CLUSTER_RECIPES)]


def is_small(name):
    """Return whether a recipe trains in minutes on the packaged photos or clips."""
    return name.endswith("quickstart.yaml") or name.startswith("reducers/")


@pytest.fixture(autouse=True)
def my_tokenizer(tmp_path, monkeypatch):
    """The tokenizer that the recipes in reducers/ start from, in the working directory."""
    save(wetok(KL(4), stride=8, channels=4, blocks=1, groups=None), tmp_path / "my-tokenizer")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", recipe_names())
def test_the_command_in_the_recipe_shows_all_settings(name, capsys, monkeypatch):
    """Also if the data is not given: a user looks at a recipe before there is any data."""
    monkeypatch.setattr(sys, "argv", ["smalti"])
    lines = (recipe_folder() / name).read_text().splitlines()
    command = shlex.split(lines[1].removeprefix("#"))
    assert command[:3] == ["smalti", "fit", "-c"]
    assert len(lines[1]) < 120
    options = [name if re.fullmatch(r"my_\w+\.yaml", word) else word for word in command[2:]]
    assert name in options
    given = ["-c", name] if name in MODEL_RECIPES else options[:4]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *given, "--print_config"])
    assert not stopped.value.code
    printed = yaml.safe_load(capsys.readouterr().out)
    recipe = load_recipes(*(word for word in given if word != "-c"))
    assert_contains(printed, recipe)
    # Defaults are included, and classes have full names.
    assert "eps" in printed["model"]["optimizer"]["init_args"]
    assert printed["data"]["class_path"].startswith("smalti.data.")
    assert "train" in (printed["data"]["init_args"].get("images") or printed["data"])["init_args"]


def assert_contains(printed, recipe):
    """Every setting of the recipe is printed with its value, and the name of every class ends like the recipe's."""
    for name, value in recipe.items():
        if name == "class_path":
            assert printed[name].rpartition(".")[2] == value.rpartition(".")[2]
        elif (name, value) == ("precision", "auto"):
            assert printed[name] in ("bf16-mixed", "32-true")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            assert len(printed[name]) == len(value)
            for inner, item in zip(printed[name], value, strict=True):
                assert_contains(inner, item)
        elif isinstance(value, dict):
            inner = printed[name]
            plain = "class_path" in inner and "class_path" not in value
            assert_contains(inner["init_args"] if plain else inner, value)
        else:
            assert printed[name] == value


@pytest.fixture
def small_source(name, tmp_path):
    """Return a small tokenizer in place of the published one of a recipe that starts from it; None for other recipes."""
    if not name.startswith("finetune/"):
        return None
    tiny = runpy.run_path(str(Path(__file__).parents[1] / "diffusers_models.py"))
    models = {"wan_fsq": "wan21", "distill_wan": "wan21", "distill_ltx": "ltx", "continuous": "vidtok_fsq"}
    model = models.get(Path(name).stem, "sd")
    return tiny["write"](model, tmp_path / "source")


@pytest.mark.parametrize("name", MODEL_RECIPES)
def test_every_recipe_builds_its_whole_model(name, small_source):
    """Without memory for the weights: networks, discriminator, optimizer and learning rate schedule."""
    recipe = load_recipes(name)
    if small_source is not None:
        arguments = recipe["model"]["tokenizer"]["init_args"]
        arguments["source"] = small_source
        if "decoder" in arguments:
            arguments["decoder"]["init_args"]["in_dim"] = 4  # channels of the latents of the small source
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TokenizerTraining, "model")
    parser.parse_object({"model": recipe["model"]})
    # The arguments of the additional losses are valid. Losses are not built if they load pretrained networks.
    losses, weights = recipe["model"].pop("losses", {}), recipe["model"]["weights"]
    assert losses.keys() <= weights.keys()
    kept = {loss: value for loss, value in losses.items() if value["class_path"].endswith("LatentRestoration")}
    recipe["model"]["losses"] = kept
    recipe["model"]["weights"] = {loss: w for loss, w in weights.items() if loss in kept or loss not in losses}
    with torch.device("meta") if small_source is None else nullcontext():
        model = parser.instantiate(parser.parse_object({"model": recipe["model"]})).model
    assert isinstance(model, TokenizerTraining)
    optimizer = model.optimizer(model.tokenizer.parameters())
    assert type(optimizer).__name__ == recipe["model"]["optimizer"]["class_path"].rpartition(".")[2]
    if model.scheduler is not None:
        steps = recipe["trainer"]["max_steps"]
        assert build_schedule(model.scheduler, optimizer, steps).total_steps == steps


@pytest.mark.parametrize("name", DATA_RECIPES)
def test_a_data_recipe_replaces_all_settings_of_the_data(name):
    data = load_recipes(name)["data"]
    for model in MODEL_RECIPES:
        assert load_recipes(model, name)["data"] == data, model


def test_cluster_recipes_keep_the_samples_per_step_and_the_steps_between_validations():
    """They go with any recipe that is trained on several GPUs, and change nothing but the trainer."""
    assert CLUSTER_RECIPES
    for name in CLUSTER_RECIPES:
        assert load_recipes(name).keys() == {"trainer"}
        for model in MODEL_RECIPES:
            alone, combined = load_recipes(model), load_recipes(model, name)
            trainer = combined.pop("trainer")
            micro_batches = trainer["accumulate_grad_batches"]
            assert trainer["devices"] * trainer.get("num_nodes", 1) * micro_batches == 32
            single = alone.pop("trainer")
            assert combined == alone
            if not is_small(model) and not model.startswith("finetune/"):
                assert trainer["val_check_interval"] == micro_batches * single["val_check_interval"]


@pytest.mark.parametrize("name", MODEL_RECIPES)
def test_model_recipes_need_only_the_data_that_a_user_gives(name):
    data = load_recipes(name)["data"]
    required = {"train", "validation"}
    if is_small(name):
        sources = data["init_args"] if data["class_path"] == "ImageData" else data["init_args"]["images"]
        assert required <= sources.keys()
    else:
        assert data["class_path"] in ("ImageData", "VideoData", "MultiSizeImageData")
        assert not required & data["init_args"].keys()
        several = data["class_path"] == "MultiSizeImageData"
        sizes = {"sizes", "batch_sizes"} if several else {"size", "batch_size"}
        assert {*sizes, "workers"} <= data["init_args"].keys()


def test_a_variant_states_only_what_differs():
    """A recipe with a base repeats no setting of it."""
    for name in recipe_names():
        content = yaml.safe_load((recipe_folder() / name).read_text())
        base = content.pop("base", None)
        if base is not None:
            assert not list(repeated(content, load_recipes(base))), name


def repeated(content, inherited, path=""):
    """Yield the paths of the settings that are equal in both. A class that differs has its own settings."""
    for name, value in content.items():
        if isinstance(inherited, dict) and name in inherited:
            other = inherited[name]
            if isinstance(value, dict) and isinstance(other, dict):
                if value.get("class_path", other.get("class_path")) == other.get("class_path"):
                    arguments = other.get("init_args", other) if "init_args" not in value else other
                    yield from repeated(value, arguments, f"{path}.{name}")
            elif value == other:
                yield f"{path}.{name}"


def test_a_copy_of_a_recipe_is_the_same_recipe(tmp_path):
    """A user copies a recipe to change it: its base is found from any folder."""
    for name in recipe_names():
        copy = tmp_path / "copy.yaml"
        copy.write_text((recipe_folder() / name).read_text())
        assert load_recipes(copy) == load_recipes(name), name


def test_the_list_of_recipes_starts_with_the_quickstart_and_names_all(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if re.match(r"  \S+\.yaml  ", line)]
    assert listed[0] == "quickstart.yaml"
    assert sorted(listed) == recipe_names()
    assert listed[-len(DATA_RECIPES + CLUSTER_RECIPES) :] == DATA_RECIPES + CLUSTER_RECIPES
