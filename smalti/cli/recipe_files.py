"""Finding the recipes that are installed with the package."""

from __future__ import annotations

from pathlib import Path

import smalti
from smalti.errors import SmaltiError


def recipe_folder() -> Path:
    """Return the folder of the recipes: inside the installed package, or `configs/` in a checkout of the repository."""
    package = Path(smalti.__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "configs"


def recipe_names() -> list[str]:
    """Return the sorted names of all installed recipes, such as "wetok/f16.yaml", as `smalti fit -c` accepts them."""
    root = recipe_folder()
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.yaml"))


def find_recipe(name: str, folder: Path | None = None) -> Path:
    """Return the file of a recipe: the user's file if it exists, else an installed recipe.

    Args:
        name: a path, or the name of an installed recipe, with or without a leading `configs/`.
        folder: folder to which a path is relative; None: the current directory.

    Raises:
        SmaltiError: neither exists, or the user's file is not text.
    """
    file = (folder or Path()) / name
    if file.is_file():
        try:
            file.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError) as error:
            raise SmaltiError(f"{file} cannot be read as a recipe: give a YAML file.") from error
        return file
    installed = recipe_folder() / name.removeprefix("configs/")
    if not Path(name).is_absolute() and installed.is_file():
        return installed
    raise SmaltiError(
        f"There is no recipe '{name}', neither as a file nor installed: run `smalti recipes` to list the installed ones."
    )
