"""Recipes are found by name."""

import pytest

import smalti
from smalti.cli.recipe_files import find_recipe, recipe_names
from smalti.errors import SmaltiError


def test_recipes_inside_the_package_are_found_from_any_folder(tmp_path, monkeypatch):
    """As in a package that was installed from a wheel."""
    package = tmp_path / "smalti"
    (package / "recipes" / "wetok").mkdir(parents=True)
    (package / "recipes" / "wetok" / "f16.yaml").write_text("# A recipe\n")
    monkeypatch.setattr(smalti, "__file__", str(package / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert find_recipe("wetok/f16.yaml") == find_recipe("configs/wetok/f16.yaml")
    assert recipe_names() == ["wetok/f16.yaml"]
    with pytest.raises(SmaltiError, match=r"no recipe 'wetok/f17\.yaml'"):
        find_recipe("wetok/f17.yaml")
