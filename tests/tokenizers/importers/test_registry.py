"""The registry finds every file with a family, and families of other packages are imported on request."""

import pkgutil
import sys

import pytest
import torch
import yaml
from safetensors.torch import save_file

import smalti
from smalti.__main__ import main
from smalti.errors import SmaltiError
from smalti.tokenizers import importers
from smalti.tokenizers.importers import Family, families, find_family, from_published, load_family

TOY_RELEASE = '''
"""The release of another package."""

from smalti.tokenizers import Tokenizer, WeTokDecoder, WeTokEncoder
from smalti.tokenizers.bottlenecks import GQ
from smalti.tokenizers.importers import Family


def build(config):
    shape = {"channels": 32, "multipliers": [1, 1], "blocks": 1}
    return Tokenizer(WeTokEncoder(config["bits"], **shape), GQ(1, config["bits"]), WeTokDecoder(config["bits"], **shape))


FAMILY = Family(
    name="toy",
    description="a toy release",
    build=build,
    keys=lambda tokenizer: {name: "net." + name for name in tokenizer.state_dict()},
    ignored_prefixes=("optimizer.",),
)
NUMBER = 3
'''


@pytest.fixture
def toy_release(tmp_path, monkeypatch):
    """The dotted path of a module outside of Smalti."""
    (tmp_path / "toy_release.py").write_text(TOY_RELEASE)
    (tmp_path / "broken_release.py").write_text("import a_package_that_does_not_exist\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "toy_release"
    sys.modules.pop("toy_release", None)


def test_every_file_with_a_family_is_registered():
    assert families() == ["cosmos", "diffusers", "ltx", "onevae", "uniwetok", "wan", "wetok"]
    names = [info.name for info in pkgutil.iter_modules(importers.__path__)]
    exporting = [name for name in names if hasattr(getattr(importers, name), "FAMILY")]
    assert exporting == families()
    assert all(isinstance(find_family(name), Family) and find_family(name).description for name in families())


def test_a_family_of_another_package_is_imported(toy_release):
    family = load_family(f"{toy_release}.FAMILY")
    torch.manual_seed(0)
    weights = {f"net.{name}": weight for name, weight in family.build({"bits": 6}).state_dict().items()}
    tokenizer = from_published(family, {"bits": 6}, weights | {"optimizer.step": torch.zeros(1)})
    assert all(torch.equal(weight, weights[f"net.{name}"]) for name, weight in tokenizer.state_dict().items())
    with pytest.raises(SmaltiError, match=r"net\.extra.*unexpected"):
        from_published(family, {"bits": 6}, weights | {"net.extra": torch.zeros(1)})
    assert "toy" not in families()


def test_the_command_imports_a_family_of_another_package(toy_release, tmp_path, capsys):
    weights = load_family(f"{toy_release}.FAMILY").build({"bits": 6}).state_dict()
    save_file({f"net.{name}": weight for name, weight in weights.items()}, tmp_path / "toy.safetensors")
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({"bits": 6}))
    files = [str(tmp_path / "toy.safetensors"), "--config", str(tmp_path / "toy.yaml"), "-o", str(tmp_path / "out")]
    assert main(["import", f"{toy_release}.FAMILY", *files]) == 0
    loaded = smalti.load(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())
    assert main(["import", "toy_release.NUMBER", *files]) == 2
    assert "toy_release.NUMBER is a int" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package.release.FAMILY", "No module named"),
        ("toy_release.OTHER", "has no OTHER"),
        ("toy_release.NUMBER", "is a int, not a"),
        ("broken_release.FAMILY", "a_package_that_does_not_exist"),
        (".FAMILY", "not a dotted path"),
        ("folder/release.FAMILY", "not a dotted path"),
    ],
)
def test_bad_paths_are_refused_in_one_sentence(toy_release, path, message):
    with pytest.raises(SmaltiError, match=message) as error:
        load_family(path)
    assert path in str(error.value)
    assert "\n" not in str(error.value)
