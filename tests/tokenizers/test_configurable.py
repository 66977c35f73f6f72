"""Configurations rebuild the modules that they describe."""

import json
import sys

import pytest

from smalti.errors import SmaltiError
from smalti.tokenizers.configurable import Configurable, from_config, get_config


def test_a_config_rebuilds_the_same_module(small):
    config = get_config(small())
    assert config["class_path"] == "smalti.Tokenizer"
    assert config["init_args"]["bottleneck"]["class_path"] == "smalti.tokenizers.bottlenecks.GQ"
    assert config["init_args"]["bottleneck"]["init_args"]["bits"] == 4
    assert get_config(from_config(json.loads(json.dumps(config)))) == config
    with pytest.raises(SmaltiError, match="cannot be built"):
        from_config({"class_path": "smalti.tokenizers.bottlenecks.GQ", "init_args": {"bitz": 4}})


def test_a_class_of_another_package_is_built_if_its_module_is_imported(monkeypatch):
    module = type(sys)("other_package")
    module.Scale = Scale
    config = {"class_path": "other_package.Scale", "init_args": {"factor": 3}}
    with pytest.raises(SmaltiError, match="import other_package"):
        from_config(config)
    monkeypatch.setitem(sys.modules, "other_package", module)
    assert from_config(config).factor == 3


class Scale(Configurable):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
