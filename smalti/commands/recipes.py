"""The recipes that travel with the package: finding one by name, and `smalti recipes`."""

from __future__ import annotations

import argparse
from pathlib import Path

import smalti
from smalti.errors import SmaltiError


def folder() -> Path:
    """Where the recipes are: inside an installed package, or at the top of a checkout."""
    package = Path(smalti.__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """All recipes, as `smalti fit -c` takes them."""
    root = folder()
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.yaml"))


def find(name: str) -> Path:
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
    shipped = folder() / name.removeprefix("configs/")
    if not own.is_absolute() and shipped.is_file():
        return shipped
    raise SmaltiError(
        f"There is no recipe '{name}', neither a file nor installed: `smalti recipes` lists the installed."
    )


def run(name: str, arguments: list[str]) -> int:
    """List the recipes, each with the first comment of its file."""
    parser = argparse.ArgumentParser(
        f"smalti {name}", description="List the recipes that `smalti fit -c` finds by name."
    )
    parser.parse_args(arguments)
    found = names()
    width = max(len(recipe) for recipe in found)
    for recipe in found:
        print(f"{recipe:<{width}}  {_summary(folder() / recipe)}")
    print(f"\nThey are in {folder()}; copy one to change it.")
    return 0


def _summary(file: Path) -> str:
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
