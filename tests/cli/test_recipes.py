"""Recipes are merged into their bases and into each other; errors name the file."""

import pytest
import yaml

from smalti.cli.recipe_files import recipe_names
from smalti.cli.recipes import format_recipe, load_recipes
from smalti.errors import SmaltiError

BASE = {
    "trainer": {"max_steps": 10, "callbacks": ["a", "b"]},
    "model": {
        "losses": {"perceptual": {"class_path": "a.Perceptual", "init_args": {"network": "vgg", "frames": 4}}},
        "weights": {"l1": 1.0, "perceptual": 0.5, "lecam": 0.1},
        "scheduler": {"class_path": "Cosine"},
    },
}


def merge(*recipes):
    return load_recipes(*(format_recipe(recipe) for recipe in (BASE, *recipes)))


def merge_model(*models):
    return merge(*({"model": model} for model in models))["model"]


def test_entries_are_added_changed_and_removed_by_name():
    model = merge_model({"weights": {"mse": 2.0, "l1": 3.0}}, {"weights": {"lecam": None}})
    assert model["weights"] == {"l1": 3.0, "perceptual": 0.5, "mse": 2.0}
    assert model["losses"] == BASE["model"]["losses"]
    assert merge_model({"losses": {"perceptual": None}})["losses"] == {}


def test_null_is_a_value_except_for_losses_and_weights():
    assert merge_model({"scheduler": None})["scheduler"] is None


def test_lists_and_values_are_replaced_and_dictionaries_merged():
    assert merge({"trainer": {"callbacks": ["c"]}})["trainer"] == {"max_steps": 10, "callbacks": ["c"]}


def test_arguments_are_merged_unless_the_class_changes():
    arguments = {"network": "alex", "frames": 4}
    for change in (
        {"init_args": {"network": "alex"}},
        {"network": "alex"},
        {"class_path": "Perceptual", "init_args": {"network": "alex"}},
        {"class_path": "a.Perceptual", "init_args": {"network": "alex"}},
    ):
        losses = merge_model({"losses": {"perceptual": change}})["losses"]
        assert losses == {"perceptual": {"class_path": "a.Perceptual", "init_args": arguments}}
    replaced = merge_model({"losses": {"perceptual": {"class_path": "b.Perceptual"}}})["losses"]
    assert replaced == {"perceptual": {"class_path": "b.Perceptual"}}


def test_muon_is_ours_and_an_optimizer_may_be_a_name():
    muon = "smalti.trainers.Muon"
    for optimizer in ("Muon", {"class_path": "Muon"}, {"class_path": muon}):
        model = merge_model({"optimizer": optimizer}, {"optimizer": {"lr": 0.02}})
        assert model["optimizer"] == {"class_path": muon, "init_args": {"lr": 0.02}}
    model = merge_model({"optimizer": "Adam"}, {"optimizer": {"lr": 0.02}}, {"optimizer": "Muon"})
    assert model["optimizer"] == {"class_path": muon}
    assert merge_model({"optimizer": "torch.optim.Muon"})["optimizer"] == {"class_path": "torch.optim.Muon"}


def test_arguments_without_a_class_are_merged_where_the_class_is_known():
    assert merge_model({"gan": {"start": 1}}, {"gan": {"adaptive": True}})["gan"] == {"start": 1, "adaptive": True}
    changed = merge_model({"gan": {"start": 1}}, {"gan": {"class_path": "GANLoss", "init_args": {"adaptive": True}}})
    assert changed["gan"] == {"class_path": "GANLoss", "init_args": {"adaptive": True}}


def test_bases_are_found_beside_the_recipe_and_among_the_installed_ones(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "base.yaml").write_text("base: quickstart.yaml\ntrainer: {max_steps: 7}\n")
    (tmp_path / "mine" / "other.yaml").write_text("trainer: {log_every_n_steps: 3}\nmodel: {weights: {mse: null}}\n")
    variant = tmp_path / "variant.yaml"
    variant.write_text("base: [mine/base.yaml, mine/other.yaml]\ntrainer: {precision: bf16-mixed}\n")
    recipe, quickstart = load_recipes(variant), load_recipes("quickstart.yaml")
    assert "base" not in recipe
    changes = {"max_steps": 7, "log_every_n_steps": 3, "precision": "bf16-mixed"}
    assert recipe["trainer"] == quickstart["trainer"] | changes
    assert "mse" in quickstart["model"]["weights"]
    assert "mse" not in recipe["model"]["weights"]
    assert recipe["data"] == quickstart["data"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: other.yaml", "There is no recipe 'other.yaml'"),
        ("base: mine.yaml", r"mine\.yaml is its own base"),
        ("base: {a: 1}", "give the name of a recipe, or a list of names"),
        ("model: [", r"mine\.yaml is not valid YAML"),
        ("- 1", r"mine\.yaml is not a dictionary"),
        ("", r"mine\.yaml is not a dictionary"),
    ],
)
def test_errors_name_the_file(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SmaltiError, match=message):
        load_recipes(tmp_path / "mine.yaml")


def test_a_recipe_on_one_line_is_the_same_recipe():
    for name in recipe_names():
        recipe = load_recipes(name)
        line = format_recipe(recipe)
        assert "\n" not in line
        assert load_recipes(line) == recipe
    values = {"a": [1.0e-6, float("inf"), None, True, "true", "1e-3", "null", "ä: {b}"]}
    assert load_recipes(format_recipe(values)) == values
    assert yaml.safe_load(format_recipe(values)) == values


def test_a_class_path_that_is_no_text_is_refused():
    with pytest.raises(SmaltiError, match=r'class_path \["a"\]: give the name of a class'):
        load_recipes("{data: {class_path: VideoData}}", '{data: {class_path: ["a"]}}')
