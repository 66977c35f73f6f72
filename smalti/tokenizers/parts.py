"""Parts that remember how they were built, so that an exported tokenizer can be built again.

A part's recipe is the tree that its YAML had: the class and the arguments it was given. No quantizer library stores its
configuration in a checkpoint; here every `Part` does, by itself, with no code in its constructor.
"""

from __future__ import annotations

import inspect
import json
import sys
from importlib import import_module
from typing import Any, Self

from torch import nn

from smalti.errors import SmaltiError

Recipe = dict[str, Any]
"""{"class_path": "package.module.Class", "init_args": {...}}, where an argument may be a recipe again."""

_OURS = "smalti.tokenizers."


class Part(nn.Module):
    """A module built from plain values (JSON can hold them) and from other parts, each kept under its argument's name."""

    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments; `recipe_of` reads them."""
        part = super().__new__(cls)
        # bind_partial: copying and unpickling call this without arguments and restore `_arguments` afterwards.
        bound = inspect.signature(cls.__init__).bind_partial(part, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        # Parts are looked up on the module itself when asked for, so that one that was replaced is told truly.
        object.__setattr__(part, "_arguments", {k: None if isinstance(v, Part) else v for k, v in arguments.items()})
        return part

    def __init__(self) -> None:
        super().__init__()


def recipe_of(part: Part) -> Recipe:
    """The recipe that builds a part like this one (not its weights).

    Raises:
        SmaltiError: an argument is no plain value that JSON can hold.
    """
    arguments: dict[str, Any] = {}
    for name, value in part._arguments.items():
        child = getattr(part, name, None)
        if isinstance(child, Part):
            arguments[name] = recipe_of(child)
            continue
        try:
            arguments[name] = json.loads(json.dumps(value))
        except TypeError:
            raise SmaltiError(
                f"{type(part).__name__}'s argument '{name}' is a {type(value).__name__}, which cannot be written to a "
                "configuration: give it a number, a text, a list, or a part kept under the argument's name."
            ) from None
    return {"class_path": f"{type(part).__module__}.{type(part).__qualname__}", "init_args": arguments}


def build(recipe: Recipe) -> Part:
    """Build a part, with fresh weights, from what `recipe_of` gave.

    Only classes of `smalti.tokenizers`, and classes whose module the caller has already imported, are built: a
    configuration that came from elsewhere cannot make Python import anything.

    Raises:
        SmaltiError: no recipe, a class that is not there or is not a part, or arguments that it does not take.
    """
    if not (isinstance(recipe, dict) and isinstance(recipe.get("class_path"), str)):
        raise SmaltiError("The configuration of the tokenizer names no class_path: it was not written by smalti.")
    path: str = recipe["class_path"]
    module_name, _, class_name = path.rpartition(".")
    if path.startswith(_OURS):
        try:
            import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and not error.name.startswith("smalti"):
                raise SmaltiError(
                    f"{class_name} is built on {error.name}, which is not installed: run `pip install {error.name}`."
                ) from error
            raise SmaltiError(f"This smalti has no {path}: install the version that wrote the file.") from error
    cls = getattr(sys.modules.get(module_name), class_name, None)
    if cls is None:
        raise SmaltiError(
            f"The tokenizer uses {path}, which is not part of this smalti: import {module_name or path} before loading, "
            "or install the version of smalti that wrote the file."
        )
    if not (isinstance(cls, type) and issubclass(cls, Part)):
        raise SmaltiError(f"{path} is not a part of a tokenizer: the configuration was not written by smalti.")
    arguments = {
        name: build(value) if isinstance(value, dict) and "class_path" in value else value
        for name, value in (recipe.get("init_args") or {}).items()
    }
    try:
        inspect.signature(cls).bind(**arguments)
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise SmaltiError(f"{path} cannot be built from its configuration: {error}.") from error
