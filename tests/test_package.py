"""What is installed: the recipes travel in the wheel, and a missing extra is named in one sentence."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from smalti.errors import MissingExtraError

ROOT = Path(__file__).parents[1]


def test_the_wheel_carries_the_recipes(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    recipes = {
        f"smalti/recipes/{path.relative_to(ROOT / 'configs').as_posix()}" for path in ROOT.glob("configs/**/*.yaml")
    }
    assert recipes <= names
    assert "smalti/py.typed" in names
    assert not any(name.startswith(("tests/", "examples/", "configs/")) for name in names)


def test_installed_recipes_are_found_by_name(tmp_path, monkeypatch):
    """Where the package has its recipes inside, as the wheel does, they are found from any folder."""
    import smalti
    from smalti.cli import recipe_files as recipes

    package = tmp_path / "smalti"
    (package / "recipes" / "wetok").mkdir(parents=True)
    (package / "recipes" / "wetok" / "f16.yaml").write_text("# A recipe\n")
    monkeypatch.setattr(smalti, "__file__", str(package / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert recipes.find("wetok/f16.yaml") == recipes.find("configs/wetok/f16.yaml")
    assert recipes.names() == ["wetok/f16.yaml"]


@pytest.mark.parametrize(
    ("module", "build", "extra"),
    [
        ("skimage", lambda: __import__("smalti.data", fromlist=["Photos"]).Photos("validation"), "photos"),
        (
            "efficientnet_lite_pytorch",
            lambda: __import__("smalti.eval.feature_networks.perceptual", fromlist=["x"]).EffLite0Perceptual(),
            "offline",
        ),
    ],
)
def test_a_missing_extra_is_named(module, build, extra, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, module, None)
    for place in ("importlib.util.find_spec", "smalti.data.packaged_files.find_spec"):
        monkeypatch.setattr(place, lambda name, *rest: None if name == module else real(name, *rest))
    with pytest.raises(MissingExtraError, match=rf"pip install 'smalti\[{extra}\]'"):
        build()
