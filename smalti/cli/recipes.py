"""Loading training recipes, resolving their bases, and merging several recipes into one.

A recipe is a YAML file for Lightning's command line that may name a base: a recipe (or a list of them) that it changes. It
then states only what differs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from smalti.cli.recipe_files import find_recipe
from smalti.errors import SmaltiError
from smalti.legacy import upgrade_recipe

Recipe = dict[str, Any]
"""The content of a recipe: dictionaries, lists and values. A class is {"class_path": ..., "init_args": {...}}."""

_NAMED_ENTRIES = ("losses", "latent_augmentations", "weights")
"""The dictionaries of `model` in which null removes the entry of an earlier recipe."""
_FAMILIES = ("cosmos", "ltx", "onevae", "uniwetok", "wetok")
BUILDERS = {name: f"smalti.tokenizers.{name}" for name in (*_FAMILIES, "pretrained")} | {
    "reduced": "smalti.reducers.reduced"
}
"""Functions that build tokenizers. jsonargparse finds classes by their name alone, but not functions."""
OPTIMIZERS = {
    "Muon": "smalti.trainers.Muon",
    "Adam8bit": "bitsandbytes.optim.Adam8bit",
    "AdamW8bit": "bitsandbytes.optim.AdamW8bit",
}
"""Optimizers that jsonargparse does not find by their name: torch has a Muon too, which takes no convolutions, and
bitsandbytes is not imported. Its optimizers keep their state in 8 bits (arXiv 2110.02861)."""
TORCH_OPTIMIZERS = {name: f"torch.optim.{name}" for name in ("Adagrad", "Adam", "AdamW", "RMSprop", "SGD")}
"""Optimizers of torch whose names bitsandbytes has too, which diffusers imports if it is installed."""
_load_yaml = get_loader("yaml")  # reads 1e-3 as a number, which YAML 1.1 does not


class _QuotingDumper(yaml.SafeDumper):
    """Quotes all strings: jsonargparse reads more strings as numbers than PyYAML knows."""


def _represent_string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_QuotingDumper.add_representer(str, _represent_string)


def load_recipes(*names: str | Path) -> Recipe:
    """Load recipes, merge each into its bases, and merge them in the order in which they override each other.

    Dictionaries are merged by key, at every level. Lists and values are replaced. The arguments of a class are merged if
    the later recipe names the same class or none; another class replaces the earlier one with all of its arguments. Null
    removes an entry of `model.losses`, `model.latent_augmentations` and `model.weights`; elsewhere, it is a value.

    Args:
        names: paths of recipes, names of installed recipes, or texts of recipes that start with "{". A base is a path
            relative to the recipe that names it, or the name of an installed recipe.

    Returns:
        The complete recipe, with current names, without `base`.

    Raises:
        SmaltiError: a recipe does not exist or is malformed, or is its own base.
    """
    recipe: Recipe = {}
    for name in names:
        recipe = _merge(recipe, _load(str(name), Path(), ()))
    return _drop_removed_entries(recipe)


def format_recipe(recipe: Recipe) -> str:
    """Return a recipe as one line of YAML, which `load_recipes` accepts."""
    options: dict[str, Any] = {"default_flow_style": True, "sort_keys": False, "allow_unicode": True, "width": math.inf}
    return yaml.dump(recipe, Dumper=_QuotingDumper, **options).strip()


def _load(name: str, folder: Path, loading: tuple[str, ...]) -> Recipe:
    """Load a recipe and its bases.

    Args:
        name: see `load_recipes`.
        folder: folder to which a path is relative.
        loading: recipes that are being loaded, the bases of which this recipe is one.
    """
    if name.lstrip().startswith("{"):
        place, text = "The recipe on the command line", name
    else:
        file = find_recipe(name, folder)
        if str(file.resolve()) in loading:
            raise SmaltiError(
                f"The recipe {file} is its own base: remove `base` from one of the recipes in the circle."
            )
        place, text = f"The recipe {file}", file.read_bytes()
        folder, loading = file.parent, (*loading, str(file.resolve()))
    try:
        content = _load_yaml(text)
    except Exception as error:  # PyYAML and its constructors raise errors of several kinds
        raise SmaltiError(f"{place} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise SmaltiError(f"{place} is not a dictionary of settings: start it with a section such as 'model:'.")
    bases = content.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
        raise SmaltiError(f"{place} has the base {json.dumps(bases)}: give the name of a recipe, or a list of names.")
    recipe: Recipe = {}
    for base in bases:
        recipe = _merge(recipe, _load(base, folder, loading))
    return _merge(recipe, _expand_optimizer(_expand_builders(upgrade_recipe(content))))


def _merge(earlier: Any, later: Any) -> Any:
    if not (isinstance(earlier, Mapping) and isinstance(later, Mapping)):
        return later
    if _is_class(earlier) or _is_class(later):
        return _merge_class(earlier, later)
    return {**earlier, **{key: _merge(earlier.get(key), value) for key, value in later.items()}}


def _merge_class(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> Mapping[str, Any]:
    """Merge two descriptions of an object, of which at least one names a class or has `init_args`.

    Where the class is known, a plain dictionary of arguments is a description too.
    """
    path, other = earlier.get("class_path"), later.get("class_path")
    for value in (path, other):
        if not isinstance(value, str | None):
            raise SmaltiError(f"A recipe has the class_path {json.dumps(value)}: give the name of a class.")
    if other is not None and not _is_same_class(path, other):
        return later
    arguments = _merge(_get_arguments(earlier), _get_arguments(later))
    class_path = other if path is None else path
    return {"class_path": class_path, "init_args": arguments} if class_path is not None else {"init_args": arguments}


def _is_class(value: Mapping[str, Any]) -> bool:
    return "class_path" in value or "init_args" in value


def _get_arguments(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return (value.get("init_args") or {}) if _is_class(value) else value


def _is_same_class(path: str | None, other: str) -> bool:
    """Return whether two paths name the same class. A path without a module matches a class of any module."""
    if path is None:
        return False
    if "." in path and "." in other:
        return path == other
    return path.rpartition(".")[2] == other.rpartition(".")[2]


def _expand_builders(value: Any) -> Any:
    """Replace the short names of functions that build tokenizers with their paths."""
    if isinstance(value, list):
        return [_expand_builders(item) for item in value]
    if not isinstance(value, dict):
        return value
    expanded = {key: _expand_builders(item) for key, item in value.items()}
    path = expanded.get("class_path")
    return {**expanded, "class_path": BUILDERS[path]} if isinstance(path, str) and path in BUILDERS else expanded


def _expand_optimizer(recipe: Recipe) -> Recipe:
    """Return a recipe whose optimizer is a dictionary, with the path of a class that its name alone does not identify."""
    model = recipe.get("model")
    optimizer = model.get("optimizer") if isinstance(model, dict) else None
    if isinstance(optimizer, str):
        optimizer = {"class_path": optimizer}
    if not (isinstance(model, dict) and isinstance(optimizer, dict) and isinstance(optimizer.get("class_path"), str)):
        return recipe
    path = optimizer["class_path"]
    path = {**TORCH_OPTIMIZERS, **OPTIMIZERS}.get(path, path)
    return {**recipe, "model": {**model, "optimizer": {**optimizer, "class_path": path}}}


def _drop_removed_entries(recipe: Recipe) -> Recipe:
    """Return a recipe without the entries of `_NAMED_ENTRIES` that are null."""
    model = recipe.get("model")
    if not isinstance(model, dict):
        return recipe
    changed = {
        name: {key: value for key, value in model[name].items() if value is not None}
        for name in _NAMED_ENTRIES
        if isinstance(model.get(name), dict)
    }
    return {**recipe, "model": {**model, **changed}}
