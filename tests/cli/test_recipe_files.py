"""Finding recipes by name."""

from pathlib import Path

import pytest

import smalti
from smalti.cli.recipe_files import find_recipe, recipe_folder, recipe_names
from smalti.errors import SmaltiError


def test_every_recipe_is_found_and_starts_with_a_comment():
    assert {"quickstart.yaml", "data/photos.yaml", "data/folder.yaml", "data/shards.yaml"} <= set(recipe_names())
    for name in recipe_names():
        assert find_recipe(name) == find_recipe(f"configs/{name}") or Path(f"configs/{name}").is_file()
        assert (recipe_folder() / name).read_text().startswith("# ")
    with pytest.raises(SmaltiError, match="smalti recipes"):
        find_recipe("wetok/f9.yaml")


def test_recipes_inside_the_package_are_found_from_any_folder(tmp_path, monkeypatch):
    """This is the layout of a package that was installed from a wheel."""
    package = tmp_path / "smalti"
    (package / "recipes" / "wetok").mkdir(parents=True)
    (package / "recipes" / "wetok" / "f16.yaml").write_text("# A recipe\n")
    monkeypatch.setattr(smalti, "__file__", str(package / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert find_recipe("wetok/f16.yaml") == find_recipe("configs/wetok/f16.yaml")
    assert recipe_names() == ["wetok/f16.yaml"]
    with pytest.raises(SmaltiError, match=r"no recipe 'wetok/f17\.yaml'"):
        find_recipe("wetok/f17.yaml")
