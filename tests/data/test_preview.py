"""Batches that are loaded before training: the same in every call, and without effect on training."""

from types import SimpleNamespace

import pytest
import torch

from smalti.data import Folder, ImageData, MixedData, Shards, VideoData, VideoFolder
from smalti.data.sampler import TrainingPosition


def images(source, rank=0, world_size=1) -> ImageData:
    data = ImageData(source, source, size=8, batch_size=3, seed=1, workers=0)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
    data.is_running = True
    return data


def preview(data, count=3):
    return [batch.pixels for loader in data.preview_loaders() for _, batch in zip(range(count), loader, strict=False)]


def test_a_preview_of_files_is_the_beginning_of_the_first_epoch_at_any_position(make_folder):
    data = images(Folder(make_folder(12)))
    data.position = lambda: TrainingPosition(0, 0)
    first = [batch.pixels for batch in data.train_dataloader()][:3]
    data.position = lambda: TrainingPosition(5, 2)
    for batch, expected in zip(preview(data), first, strict=True):
        assert batch.dtype == torch.uint8
        assert batch.equal(expected)


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_a_preview_has_no_effect_on_training(make_folder, make_shards, kind):
    data = images(Folder(make_folder(12)) if kind == "folder" else Shards(make_shards(3, 8)))
    data.position = lambda: TrainingPosition(1, 1)
    expected = [(batch.pixels, batch.names) for batch in data.train_dataloader()]
    seen = preview(data)
    assert all(batch.equal(again) for batch, again in zip(seen, preview(data), strict=True))
    after = [(batch.pixels, batch.names) for batch in data.train_dataloader()]
    assert len(after) == len(expected)
    assert all(
        pixels.equal(other) and names == others
        for (pixels, names), (other, others) in zip(expected, after, strict=True)
    )


def test_the_ranks_preview_different_samples(make_shards):
    shards = make_shards(4, 6)
    ranks = [preview(images(Shards(shards), rank, 2), 1)[0] for rank in range(2)]
    assert not ranks[0].equal(ranks[1])


def test_mixed_data_previews_both_kinds(make_folder, make_videos):
    videos = VideoFolder(make_videos(6))
    data = MixedData(
        images(Folder(make_folder(10))), VideoData(videos, videos, frames=3, size=8, batch_size=2, workers=0)
    )
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)
    assert {tuple(batch.shape) for batch in preview(data, 2)} == {(3, 3, 8, 8), (2, 3, 3, 8, 8)}
