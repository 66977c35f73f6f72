"""The recipes that travel with the package: finding one by name, and `smalti recipes`."""

from __future__ import annotations

import argparse
from pathlib import Path

from smalti.cli.recipe_files import recipe_folder, recipe_names


def run(name: str, arguments: list[str]) -> int:
    """List the recipes, each with the first comment of its file."""
    parser = argparse.ArgumentParser(
        f"smalti {name}", description="List the recipes that `smalti fit -c` finds by name."
    )
    parser.parse_args(arguments)
    found = recipe_names()
    width = max(len(recipe) for recipe in found)
    for recipe in found:
        print(f"{recipe:<{width}}  {_summary(recipe_folder() / recipe)}")
    print(f"\nThey are in {recipe_folder()}; copy one to change it.")
    return 0


def _summary(file: Path) -> str:
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
