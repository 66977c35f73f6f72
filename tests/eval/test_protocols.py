"""Evaluation protocols by name."""

import json
from dataclasses import FrozenInstanceError

import pytest

from smalti.errors import SmaltiError
from smalti.eval.protocols import PROTOCOLS, get_protocol


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
def test_protocols_for_images(name, resize, crop):
    protocol = get_protocol(name)
    assert (protocol.name, protocol.resize, protocol.crop) == (name, resize, crop)
    assert (protocol.interpolation, protocol.antialias) == ("bicubic", True)


@pytest.mark.parametrize("name", ["square", "square0", "square-64", "imagenet257", "", "xsquare64", "square64 "])
def test_unknown_names_list_the_protocols(name):
    with pytest.raises(SmaltiError, match="imagenet256") as caught:
        get_protocol(name)
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
def test_protocols_for_clips_state_frames_size_and_frame_rate(name, frames, size, rate):
    protocol = get_protocol(name)
    assert protocol.clips
    assert (protocol.name, protocol.frames, protocol.rate) == (name, frames, rate)
    assert protocol.resize == protocol.crop == size
    assert protocol.to_dict()["rate"] == rate


def test_protocols_for_images_have_no_frames():
    assert not any(get_protocol(name).clips for name in ("imagenet256", "native", "square64"))


@pytest.mark.parametrize("name", ["clip", "clip0", "clip17x", "clip17x0@24", "clip17@", "clip17@0", "clip17x64@2x4"])
def test_malformed_names_of_clip_protocols(name):
    with pytest.raises(SmaltiError, match=r"clipT\[xN\]\[@R\]"):
        get_protocol(name)


def test_every_attribute_is_in_the_dictionary():
    for name, protocol in PROTOCOLS.items():
        attributes = json.loads(json.dumps(protocol.to_dict()))
        assert attributes["name"] == name
        assert attributes.keys() >= {"resize", "crop", "interpolation", "antialias", "pixels", "reference", "data"}


def test_a_protocol_is_immutable():
    with pytest.raises(FrozenInstanceError):
        get_protocol("imagenet256").crop = 224  # pyright: ignore
