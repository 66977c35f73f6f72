import json
from dataclasses import FrozenInstanceError

import pytest

from smalti.errors import SmaltiError
from smalti.eval.protocols import PROTOCOLS, protocol


@pytest.mark.parametrize(
    ("name", "resize", "crop"),
    [
        ("imagenet256", 256, 256),
        ("native", None, None),
        ("square64", 64, 64),
        ("resize480", 480, None),
        ("center256", None, 256),
    ],
)
def test_names(name, resize, crop):
    found = protocol(name)
    assert (found.name, found.resize, found.crop) == (name, resize, crop)
    assert (found.interpolation, found.antialias) == ("bicubic", True)


@pytest.mark.parametrize("name", ["square", "square0", "square-64", "imagenet257", "", "xsquare64", "square64 "])
def test_what_is_not_a_name(name):
    with pytest.raises(SmaltiError, match="imagenet256") as caught:
        protocol(name)
    assert "squareN" in str(caught.value)


def test_all_of_it_is_provenance():
    for name, found in PROTOCOLS.items():
        record = json.loads(json.dumps(found.record()))
        assert record["name"] == name
        assert record.keys() >= {"resize", "crop", "interpolation", "antialias", "pixels", "reference", "data"}


def test_a_protocol_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        protocol("imagenet256").crop = 224  # pyright: ignore
