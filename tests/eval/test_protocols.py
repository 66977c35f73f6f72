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


@pytest.mark.parametrize(
    ("name", "frames", "size", "rate"),
    [
        ("clip17x128@24", 17, 128, 24),
        ("clip33x256", 33, 256, None),
        ("clip17@29.97", 17, None, 29.97),
        ("clip1", 1, None, None),
        ("mcljcv17x256", 17, 256, None),
    ],
)
def test_names_of_clips_tell_length_size_and_rate(name, frames, size, rate):
    found = protocol(name)
    assert found.clips
    assert (found.name, found.frames, found.resize, found.crop, found.rate) == (name, frames, size, size, rate)
    assert found.record()["rate"] == rate


def test_images_have_no_frames():
    assert not any(protocol(name).clips for name in ("imagenet256", "native", "square64"))


@pytest.mark.parametrize("name", ["clip", "clip0", "clip17x", "clip17x0@24", "clip17@", "clip17@0", "clip17x64@2x4"])
def test_what_is_not_a_name_of_clips(name):
    with pytest.raises(SmaltiError, match=r"clipT\[xN\]\[@R\]"):
        protocol(name)


def test_all_of_it_is_provenance():
    for name, found in PROTOCOLS.items():
        record = json.loads(json.dumps(found.record()))
        assert record["name"] == name
        assert record.keys() >= {"resize", "crop", "interpolation", "antialias", "pixels", "reference", "data"}


def test_a_protocol_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        protocol("imagenet256").crop = 224  # pyright: ignore
