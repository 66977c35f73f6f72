"""Merging the losses and the weights of several recipes by name.

jsonargparse merges most of a recipe into the recipes before it, but replaces dictionaries with free keys. A second recipe
that adds one loss would silently remove all others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MERGED_KEYS = ("losses", "weights")
"""The dictionaries of `model` whose entries are merged by name."""


def merge_losses_and_weights(recipes: Iterable[Any]) -> dict[str, Any]:
    """Merge `model.losses` and `model.weights` of recipes. An entry of null removes the entry of an earlier recipe.

    Args:
        recipes: contents of recipe files, in the order in which they override each other.

    Returns:
        A recipe with the merged dictionaries; empty if no recipe has any.
    """
    merged: dict[str, dict[str, Any]] = {}
    for model in map(_get_model, recipes):
        for key in MERGED_KEYS:
            entries = model.get(key)
            if not isinstance(entries, dict):
                continue
            target = merged.setdefault(key, {})
            for name, value in entries.items():
                target[name] = _merge_entry(target.get(name), value)
    complete = {key: _drop_null(entries) for key, entries in merged.items()}
    return {"model": complete} if complete else {}


def drop_removed_entries(recipe: Any) -> Any:
    """Return a recipe without the entries of `model.losses` and `model.weights` that are null."""
    model = _get_model(recipe)
    changed = {key: _drop_null(model[key]) for key in MERGED_KEYS if isinstance(model.get(key), dict)}
    return {**recipe, "model": {**model, **changed}} if changed else recipe


def _get_model(recipe: Any) -> dict[str, Any]:
    model = recipe.get("model") if isinstance(recipe, dict) else None
    return model if isinstance(model, dict) else {}


def _drop_null(entries: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if value is not None}


def _merge_entry(earlier: Any, later: Any) -> Any:
    """Merge the arguments of a loss if the later recipe names no other class; else replace the entry."""
    if not (isinstance(earlier, dict) and isinstance(later, dict)):
        return later
    if later.get("class_path", earlier.get("class_path")) != earlier.get("class_path"):
        return later
    arguments = {**(earlier.get("init_args") or {}), **(later.get("init_args") or {})}
    return {**earlier, **later, **({"init_args": arguments} if arguments else {})}
