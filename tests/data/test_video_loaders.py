"""Loaders of clips: from files and shards, with unreadable and short videos."""

import logging

import pytest
import torch

from smalti.data import (
    EvaluationTransform,
    Photos,
    TrainingTransform,
    VideoEvaluationTransform,
    VideoFolder,
    VideoShards,
    VideoTrainingTransform,
    evaluation_loader,
    training_loader,
)
from smalti.data.sampler import TrainingPosition
from smalti.errors import SmaltiError

SMALL = VideoEvaluationTransform(frames=5, resize=8, crop=8)
RANDOM_CLIP = VideoTrainingTransform(frames=5, size=8)


def test_without_a_transform_complete_videos_keep_their_size(make_videos):
    (batch,) = evaluation_loader(VideoFolder(make_videos(1)), None, batch_size=4)
    assert batch.pixels.shape == (1, 3, 24, 20, 24)
    gray_levels = ((batch.pixels[0].mean(dim=(0, 2, 3)) + 1) * 127.5).round().int()
    assert (gray_levels // 5).tolist() == list(range(24))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_and_short_videos_are_skipped_counted_and_logged(make_videos, caplog, workers):
    folder = VideoFolder(make_videos(7, bad=(2,), short=(4,)))
    loader = evaluation_loader(folder, SMALL, 2, workers, max_bad=0.3)
    with caplog.at_level(logging.WARNING, "smalti.data"):
        batches = list(loader)
    assert [name for batch in batches for name in batch.names] == [
        f"{name}@0.000" for name in (folder.name(i) for i in range(7)) if "002" not in name and "004" not in name
    ]
    assert all(batch.pixels.shape[1:] == (3, 5, 8, 8) for batch in batches)
    assert (loader.skipped.requested, loader.skipped.count) == (7, 2)
    assert loader.skipped.names["1/004.mkv"] == "has 3 frames, but 5 are needed"
    assert loader.skipped.names["2/002.mkv"]
    assert len(caplog.records) == 2
    training = training_loader(folder, RANDOM_CLIP, batch_size=7, workers=workers, max_bad=0.3)
    (batch,) = training
    training.close()
    assert batch.pixels.shape == (7, 3, 5, 8, 8)
    assert not any("002" in name or "004" in name for name in batch.names)
    assert training.skipped.count == 2
    with pytest.raises(SmaltiError, match=r"2 of the 7 samples .*\(.*\); fix") as caught:
        list(evaluation_loader(folder, SMALL, 2, workers))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_training_clips_do_not_depend_on_workers_but_on_the_epoch(kind, make_videos, make_video_shards):
    if kind == "folder":
        source, options = VideoFolder(make_videos(5, bad=(2,))), {"repeats": 2}
    else:
        source, options = VideoShards(make_video_shards(3, 3, bad=(2,)), samples=9, buffer=4, lanes=2), {}

    def load(workers: int, epoch: int):
        position = TrainingPosition(epoch)
        loader = training_loader(
            source, RANDOM_CLIP, batch_size=3, workers=workers, max_bad=0.5, get_position=lambda: position, **options
        )
        batches = list(loader)
        loader.close()
        return batches

    batches = load(0, 0)
    assert len(batches) == 3
    for workers in (1, 2):
        with_workers = load(workers, 0)
        assert [batch.names for batch in with_workers] == [batch.names for batch in batches]
        assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(batches, with_workers, strict=True))
    assert [batch.names for batch in load(0, 1)] != [batch.names for batch in batches]


def test_evaluation_uses_every_video_in_shards_once_and_ignores_images(make_video_shards):
    shards = VideoShards(make_video_shards(2, 3, bad=(4,)))
    loader = evaluation_loader(shards, SMALL, 2, max_bad=0.5)
    names = [name for batch in loader for name in batch.names]
    assert names == [f"{sample.name}@0.000" for sample in shards if not sample.name.endswith("0004")]
    assert [name.rpartition("/")[2] for name in loader.skipped.names] == ["0004"]


def test_video_shards_without_videos_raise_an_error(make_shards):
    loader = evaluation_loader(VideoShards(make_shards(1, 2)), SMALL, max_bad=0.5)
    with pytest.raises(SmaltiError, match="no video in the sample"):
        list(loader)


def test_clip_transforms_for_images_and_image_transforms_for_videos_are_refused(make_videos):
    folder = VideoFolder(make_videos(2))
    for build in (
        lambda: evaluation_loader(Photos("validation"), SMALL),
        lambda: training_loader(Photos("validation"), RANDOM_CLIP, batch_size=1),
    ):
        with pytest.raises(SmaltiError, match="photos:validation contains images, but videos are expected"):
            build()
    for build in (
        lambda: evaluation_loader(folder, EvaluationTransform(8, 8)),
        lambda: training_loader(folder, TrainingTransform(8), batch_size=1),
    ):
        with pytest.raises(SmaltiError, match="contains videos, but images are expected"):
            build()
