"""Packaging: the wheel contains the recipes, and the error for a missing dependency names the extra to install."""

import importlib
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from smalti.errors import MissingExtraError

ROOT = Path(__file__).parents[1]


def test_the_wheel_contains_the_recipes(tmp_path):
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


@pytest.mark.parametrize(
    ("package", "module", "class_name", "arguments", "extra"),
    [
        ("skimage", "smalti.data", "Photos", ["validation"], "photos"),
        (
            *("efficientnet_lite_pytorch", "smalti.eval.feature_networks.efflite0_perceptual"),
            *("EffLite0Perceptual", [], "offline"),
        ),
    ],
)
def test_the_error_for_a_missing_extra_names_it(package, module, class_name, arguments, extra, monkeypatch):
    cls = getattr(importlib.import_module(module), class_name)
    find_spec = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, package, None)
    for target in ("importlib.util.find_spec", "smalti.data.packaged_files.find_spec"):
        monkeypatch.setattr(target, lambda name, *rest: None if name == package else find_spec(name, *rest))
    with pytest.raises(MissingExtraError, match=rf"pip install -e '\.\[{extra}\]'"):
        cls(*arguments)
