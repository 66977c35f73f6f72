"""`smalti recipes`: list the installed recipes."""

from __future__ import annotations

import argparse
from pathlib import Path

from smalti.cli.recipe_files import recipe_folder, recipe_names


def run(name: str, arguments: list[str]) -> int:
    """Print the name of each recipe and the first comment in its file."""
    parser = argparse.ArgumentParser(
        f"smalti {name}", description="List the installed recipes. Pass a name to `smalti fit -c`."
    )
    parser.parse_args(arguments)
    folder, names = recipe_folder(), recipe_names()
    width = max(map(len, names))
    for recipe in names:
        print(f"{recipe:<{width}}  {_first_comment(folder / recipe)}")
    print(f"\nThe recipes are in {folder}. To change a recipe, copy its file and pass the copy to `smalti fit -c`.")
    return 0


def _first_comment(file: Path) -> str:
    """Return the comment in the first line of a file, or an empty string."""
    first_line = file.read_text(encoding="utf-8").partition("\n")[0]
    return first_line.removeprefix("#").strip() if first_line.startswith("#") else ""
