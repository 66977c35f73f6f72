"""The packaged photos: disjoint splits, no network, and an error that names a missing extra."""

import importlib.util
import socket

import pytest
import torch

from smalti.data import EvaluationTransform, ImageFiles, Photos, packaged_files, packaged_photos
from smalti.data.sources import ImageSource
from smalti.errors import MissingExtraError, SmaltiError


def test_splits_are_disjoint_and_need_no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    train, validation, everything = (Photos(split) for split in ("train", "validation", "all"))
    names = [{source.name(i) for i in range(len(source))} for source in (train, validation, everything)]
    assert (len(train), len(validation), len(everything)) == (12, 4, 16)
    assert not names[0] & names[1]
    assert names[0] | names[1] == names[2]
    assert all(everything[i].mode == "RGB" and min(everything[i].size) >= 256 for i in range(16))
    assert everything[0] is everything[0]


def test_no_training_photo_is_a_near_duplicate_of_a_validation_photo():
    stereo_pair = ImageFiles(
        [packaged_files.locate(f"motorcycle_{side}.png", packaged_photos._SKIMAGE) for side in ("left", "right")]
    )

    def features(source: ImageSource) -> torch.Tensor:
        small = torch.stack([EvaluationTransform(16, 16)(source[i]).flatten() for i in range(len(source))])
        return torch.nn.functional.normalize(small - small.mean(dim=1, keepdim=True), dim=1)

    similarity = features(Photos("train")) @ features(Photos("validation")).T
    # The similarity of the stereo pair, of which one image is left out, is that of near duplicates.
    near_duplicate = torch.dot(*features(stereo_pair))
    assert similarity.max() < 0.75 < near_duplicate


def test_a_missing_extra_or_an_unknown_split_raises_an_error(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(packaged_files, "find_spec", lambda name: None if name == "sklearn" else real(name))
    with pytest.raises(MissingExtraError, match=r"scikit-learn.*pip install -e '\.\[photos\]'"):
        Photos("train")
    with pytest.raises(SmaltiError, match="no split 'test'"):
        Photos("test")
