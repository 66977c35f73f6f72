"""Losses and weights of several recipes are merged by name; null removes an entry."""

from smalti.cli.recipe_merging import drop_removed_entries, merge_losses_and_weights

BASE = {
    "model": {
        "losses": {"perceptual": {"class_path": "a.Perceptual", "init_args": {"network": "vgg", "frames": 4}}},
        "weights": {"l1": 1.0, "perceptual": 0.5, "lecam": 0.1},
    }
}


def merge(*models):
    return merge_losses_and_weights([BASE, *({"model": model} for model in models)])["model"]


def test_entries_are_added_changed_and_removed_by_name():
    merged = merge({"weights": {"mse": 2.0, "l1": 3.0}}, {"weights": {"lecam": None}})
    assert merged["weights"] == {"l1": 3.0, "perceptual": 0.5, "mse": 2.0}
    assert merged["losses"] == BASE["model"]["losses"]


def test_a_loss_keeps_its_class_and_arguments_unless_they_change():
    changed = merge({"losses": {"perceptual": {"init_args": {"network": "alex"}}}})["losses"]
    assert changed == {"perceptual": {"class_path": "a.Perceptual", "init_args": {"network": "alex", "frames": 4}}}
    replaced = merge({"losses": {"perceptual": {"class_path": "b.Other"}}})["losses"]
    assert replaced == {"perceptual": {"class_path": "b.Other"}}
    assert merge({"losses": {"perceptual": None}})["losses"] == {}
    assert set(merge({"losses": {"edges": {"class_path": "c.Edges"}}})["losses"]) == {"perceptual", "edges"}


def test_recipes_without_either_change_nothing():
    assert merge_losses_and_weights([{"data": {}}, None, "text", {"model": {"frozen": ["encoder"]}}]) == {}
    recipe = {"data": {"size": 4}, "model": {"frozen": None}}
    assert drop_removed_entries(recipe) == recipe
    assert drop_removed_entries(None) is None
    assert drop_removed_entries({"model": {"weights": {"l1": 1.0, "mse": None}}}) == {"model": {"weights": {"l1": 1.0}}}
