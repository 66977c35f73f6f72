"""Photos with frames of a video: the splits of the photos, and colored scenes for training."""

import pytest
import torch

from smalti.data import EvaluationTransform, Photos, Pictures
from smalti.errors import SmaltiError


def test_training_adds_frames_and_validation_is_that_of_the_photos():
    train, validation, everything = (Pictures(split) for split in ("train", "validation", "all"))
    photos = Photos("train")
    assert (len(train), len(validation), len(everything)) == (24, 4, 28)
    assert train.origins()[:12] == photos.origins()
    assert validation.origins() == Photos("validation").origins()
    assert len({everything.name(i) for i in range(28)}) == 28
    assert not set(train.origins()) & set(validation.origins())
    assert all(train[i].mode == "RGB" and train[i].size == (640, 272) for i in range(12, 24))
    assert train.name(12) == "bikes.mp4 0.00"
    assert train.name(23) == "bikes.mp4 7.04"  # before the scenes that are held out


def test_the_frames_show_different_pictures():
    train = Pictures("train")
    small = torch.stack([EvaluationTransform(16, 16)(train[i]).flatten() for i in range(12, 24)])
    distances = torch.cdist(small, small) + 1e6 * torch.eye(12)
    assert distances.min() > 1.0


def test_an_unknown_split_raises_an_error():
    with pytest.raises(SmaltiError, match="The packaged pictures have no split 'test'"):
        Pictures("test")
