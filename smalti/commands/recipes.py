"""`smalti recipes`: list the installed recipes."""

from __future__ import annotations

from pathlib import Path

from smalti.cli.parser import CommandParser
from smalti.cli.recipe_files import recipe_folder, recipe_names

_EXAMPLES = ("smalti recipes", "smalti fit -c wetok/f16.yaml --data.train my/photos --data.validation my/val")
_HINTS = """\
The recipes are in {folder}.
To see all settings of a recipe, with those of its base:
  smalti fit -c wetok/f16.yaml --print_config
To change a recipe, write a recipe that names it as its base and contains only the changes, such as:
  base: wetok/f16.yaml
  model: {{tokenizer: {{stride: 8}}}}"""


def run(name: str, arguments: list[str]) -> int:
    """Print the name and the first comment of each recipe, model recipes first."""
    CommandParser(name, "List the installed recipes.", _EXAMPLES).parse(arguments)
    names = sorted(recipe_names(), key=lambda recipe: ("/" in recipe, recipe))  # the quickstart first
    data_recipes, cluster_recipes = ([name for name in names if name.startswith(f)] for f in ("data/", "cluster/"))
    _print_recipes(
        "Model recipes: smalti fit -c wetok/f16.yaml --data.train my/photos --data.validation my/val",
        [recipe for recipe in names if recipe not in (*data_recipes, *cluster_recipes)],
    )
    _print_recipes("Data recipes: smalti fit -c wetok/f16.yaml -c data/photos.yaml", data_recipes)
    _print_recipes("Several GPUs: smalti fit -c mine.yaml -c cluster/8gpus.yaml", cluster_recipes)
    print(_HINTS.format(folder=recipe_folder()))
    return 0


def _print_recipes(heading: str, names: list[str]) -> None:
    """Print a heading, and one line per recipe."""
    print(heading)
    width = max(map(len, recipe_names()))
    for name in names:
        print(f"  {name:<{width}}  {_first_comment(recipe_folder() / name)}")
    print()


def _first_comment(file: Path) -> str:
    """Return the comment in the first line of a file, or an empty string."""
    first_line = file.read_text(encoding="utf-8").partition("\n")[0]
    return first_line.removeprefix("#").strip() if first_line.startswith("#") else ""
