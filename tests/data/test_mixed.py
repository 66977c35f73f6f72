"""Batches of images and of clips in one run: each of one kind, by ratio, the same kinds on every process."""

from collections import Counter

import pytest

from smalti.data import Folder, ImageData, MixedData, VideoData, VideoFolder
from smalti.data.sampler import Position
from smalti.errors import SmaltiError


class Place:
    """A trainer, as far as data asks it."""

    def __init__(self, rank: int, world: int):
        self.global_rank, self.world_size = rank, world


@pytest.fixture
def make_data(make_folder, make_videos):
    """A function: 6 batches of clips an epoch, and images in proportion, for a process."""
    images, videos = Folder(make_folder(10)), VideoFolder(make_videos(6))

    def make(share: float = 0.25, rank: int = 0, world: int = 1, repeats: int = 2) -> MixedData:
        data = MixedData(
            ImageData(images, images, size=8, batch_size=3, workers=0, seed=1),
            VideoData(videos, videos, frames=3, size=8, batch_size=2, workers=0, seed=2, repeats=repeats),
            image_share=share,
            seed=7,
        )
        data.trainer = Place(rank, world)
        return data

    return make


def batches(data, epoch=0, done=0):
    data.position = lambda: Position(epoch, done)
    return list(data.train_dataloader())


def kinds(seen) -> str:
    return "".join("I" if batch.pixels.ndim == 4 else "V" for batch in seen)


@pytest.mark.parametrize(("share", "images"), [(0.25, 2), (0.5, 6), (0.8, 24), (0.001, 1)])
def test_each_batch_is_of_one_kind_in_the_ratio_that_is_asked_for(make_data, share, images):
    data = make_data(share)
    seen = batches(data)
    assert Counter(kinds(seen)) == {"I": images, "V": 6}
    assert len(seen) == len(data.train_dataloader()) == 6 + images
    assert {tuple(batch.pixels.shape) for batch in seen} == {(3, 3, 8, 8), (2, 3, 3, 8, 8)}


def test_the_order_of_kinds_differs_by_epoch_and_agrees_on_every_process(make_data):
    orders = [kinds(batches(make_data(0.5), epoch)) for epoch in range(4)]
    assert len(set(orders)) > 2
    for epoch in range(2):
        ranks = [batches(make_data(0.5, rank, 2, repeats=4), epoch) for rank in range(2)]
        assert kinds(ranks[0]) == kinds(ranks[1])
        for one, other in zip(*ranks, strict=True):
            assert one.names != other.names


def test_an_epoch_sees_every_video_and_images_run_on_from_epoch_to_epoch(make_data):
    data = make_data()
    seen = [batches(data, epoch) for epoch in range(3)]
    for epoch in seen:
        files = Counter(name.partition("@")[0] for batch in epoch if batch.pixels.ndim == 5 for name in batch.names)
        assert len(files) == 6
        assert set(files.values()) == {2}
    # two batches of images an epoch, of three that the images have: 0 1 | 2 0 | 1 2 of their own epochs 0, 0, 0, 1, 1, 1
    own = []
    for epoch in range(2):
        data.images.position = lambda epoch=epoch: Position(epoch)
        own += [batch.names for batch in data.images.train_dataloader()]
    assert [batch.names for epoch in seen for batch in epoch if batch.pixels.ndim == 4] == own


def test_an_epoch_goes_on_from_any_batch(make_data):
    for epoch in (0, 2):
        whole = batches(make_data(0.5), epoch)
        for done in (1, 5, 11):
            rest = batches(make_data(0.5), epoch, done)
            assert [batch.names for batch in rest] == [batch.names for batch in whole[done:]]


def test_validation_is_of_the_videos(make_data):
    names = [name for batch in make_data().val_dataloader() for name in batch.names]
    assert len(names) == 6
    assert all(name.endswith(".mkv@0.000") for name in names)


def test_a_share_that_leaves_a_kind_out_is_refused(make_data):
    for share in (0, 1, -0.5, 2):
        with pytest.raises(SmaltiError, match=f"image_share is {share}"):
            make_data(share)
