"""Configurations: public class paths, round trips, defaults, and what an untrusted configuration cannot do."""

import sys

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers import Tokenizer, WeTokEncoder
from smalti.tokenizers.bottlenecks import GQ, VQ
from smalti.tokenizers.configurable import Configurable, from_config, get_config, normalize_config, public_path


class Windowed(Configurable):
    """A user's module, with a tuple as the default of an argument."""

    def __init__(self, width: int, window: tuple[int, int] = (3, 3)) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(width, width)
        self.window = window


def find_subclasses(cls):
    return {cls, *(found for child in cls.__subclasses__() for found in find_subclasses(child))}


def test_every_class_has_a_public_path_in_a_package():
    """A module path would break old files when the class moves."""
    assert public_path(Tokenizer) == "smalti.Tokenizer"
    assert public_path(WeTokEncoder) == "smalti.tokenizers.WeTokEncoder"
    assert public_path(VQ) == "smalti.tokenizers.bottlenecks.VQ"
    abstract = {"Bottleneck", "Configurable", "Decoder", "Encoder", "LibraryAdapter", "Quantizer", "SignQuantizer"}
    for cls in find_subclasses(Configurable):
        if cls.__module__.startswith("smalti.") and cls.__name__ not in abstract:
            package = public_path(cls).rpartition(".")[0]
            assert hasattr(sys.modules[package], "__path__"), cls


def test_a_configuration_builds_the_same_module(small):
    tokenizer = small(GQ(2, 4, temperature=0.5))
    config = get_config(tokenizer)
    again = from_config(config)
    assert get_config(again) == config == normalize_config(config)
    shapes = [{name: weight.shape for name, weight in module.state_dict().items()} for module in (tokenizer, again)]
    assert shapes[0] == shapes[1]


def test_tuples_become_lists():
    assert get_config(Windowed(2))["init_args"] == {"width": 2, "window": [3, 3]}


def test_a_replaced_module_is_described(small):
    tokenizer = small(GQ(2, 4))
    tokenizer.bottleneck = GQ(1, 8)
    assert get_config(tokenizer)["init_args"]["bottleneck"] == get_config(GQ(1, 8))


def test_an_argument_that_json_cannot_represent_is_refused():
    with pytest.raises(SmaltiError, match=r"The argument 'window' of Windowed is a Tensor"):
        get_config(Windowed(2, torch.zeros(2)))


def test_a_missing_argument_has_its_default():
    """Configurations that were written before the argument existed do not contain it."""
    config = get_config(Windowed(2))
    without_window = {**config, "init_args": {"width": 2}}
    assert normalize_config(without_window) == normalize_config(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "no class_path"),
        ({"class_path": "smalti.tokenizers.Nothing"}, "smalti.tokenizers.Nothing"),
        ({"class_path": "smalti.nowhere.Nothing"}, "smalti.nowhere.Nothing"),
        ({"class_path": "antigravity.Nothing"}, "import antigravity before loading"),
        ({"class_path": "smalti.types.Code"}, "not a part of a tokenizer"),
        ({"class_path": "smalti.tokenizers.bottlenecks.GQ", "init_args": {"groups": 2, "bits": 2, "bitz": 2}}, "bitz"),
    ],
)
def test_invalid_configurations_are_refused(config, message):
    with pytest.raises(SmaltiError, match=message):
        from_config(config)
    assert "antigravity" not in sys.modules
