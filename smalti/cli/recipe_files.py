"""The recipes that travel with the package: finding one by name, and `smalti recipes`."""

from __future__ import annotations

from pathlib import Path

import smalti
from smalti.errors import SmaltiError


def recipe_folder() -> Path:
    """Where the recipes are: inside an installed package, or at the top of a checkout."""
    package = Path(smalti.__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "configs"


def recipe_names() -> list[str]:
    """All recipes, as `smalti fit -c` takes them."""
    root = recipe_folder()
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.yaml"))


def find_recipe(name: str) -> Path:
    """A recipe's file: the user's own, or the installed one of that name, with or without `configs/` before it.

    Raises:
        SmaltiError: neither is there.
    """
    own = Path(name)
    if own.is_file():
        try:
            own.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError) as error:
            raise SmaltiError(f"{own} cannot be read as a recipe: give a YAML file.") from error
        return own
    shipped = recipe_folder() / name.removeprefix("configs/")
    if not own.is_absolute() and shipped.is_file():
        return shipped
    raise SmaltiError(
        f"There is no recipe '{name}', neither a file nor installed: `smalti recipes` lists the installed."
    )
