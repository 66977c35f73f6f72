"""Mixed batches: each contains images or clips, in a fixed ratio, and the order is the same on every process."""

from collections import Counter
from types import SimpleNamespace

import pytest

from smalti.data import Folder, ImageData, MixedData, VideoData, VideoFolder
from smalti.data.sampler import TrainingPosition
from smalti.errors import SmaltiError


@pytest.fixture
def make_data(make_folder, make_videos):
    """A function that builds the data module of a process, with 6 batches of clips per epoch and images in proportion."""
    images, videos = Folder(make_folder(10)), VideoFolder(make_videos(6))

    def make(image_share: float = 0.25, rank: int = 0, world_size: int = 1, repeats: int = 2) -> MixedData:
        data = MixedData(
            ImageData(images, images, size=8, batch_size=3, workers=0, seed=1),
            VideoData(videos, videos, frames=3, size=8, batch_size=2, workers=0, seed=2, repeats=repeats),
            image_share=image_share,
            seed=7,
        )
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
        return data

    return make


def batches(data, epoch=0, batches_done=0):
    data.position = lambda: TrainingPosition(epoch, batches_done)
    return list(data.train_dataloader())


def kinds(epoch) -> str:
    return "".join("I" if batch.pixels.ndim == 4 else "V" for batch in epoch)


@pytest.mark.parametrize(("image_share", "images"), [(0.25, 2), (0.5, 6), (0.8, 24), (0.001, 1)])
def test_each_batch_has_one_kind_and_the_ratio_is_as_configured(make_data, image_share, images):
    data = make_data(image_share)
    epoch = batches(data)
    assert Counter(kinds(epoch)) == {"I": images, "V": 6}
    assert len(epoch) == len(data.train_dataloader()) == 6 + images
    assert {tuple(batch.pixels.shape) for batch in epoch} == {(3, 3, 8, 8), (2, 3, 3, 8, 8)}


def test_the_order_of_kinds_differs_by_epoch_and_agrees_between_processes(make_data):
    orders = [kinds(batches(make_data(0.5), epoch)) for epoch in range(4)]
    assert len(set(orders)) > 2
    for epoch in range(2):
        ranks = [batches(make_data(0.5, rank, 2, repeats=4), epoch) for rank in range(2)]
        assert kinds(ranks[0]) == kinds(ranks[1])
        for first, second in zip(*ranks, strict=True):
            assert first.names != second.names


def test_an_epoch_uses_every_video_and_images_continue_across_epochs(make_data):
    data = make_data()
    epochs = [batches(data, epoch) for epoch in range(3)]
    for epoch in epochs:
        files = Counter(name.partition("@")[0] for batch in epoch if batch.pixels.ndim == 5 for name in batch.names)
        assert len(files) == 6
        assert set(files.values()) == {2}
    # An epoch has two batches of images, and an epoch of the images three. The batches are 0 1 | 2 0 | 1 2 of the image
    # epochs 0 0 | 0 1 | 1 1.
    image_batches = []
    for epoch in range(2):
        data.images.position = lambda epoch=epoch: TrainingPosition(epoch)
        image_batches += [batch.names for batch in data.images.train_dataloader()]
    assert [batch.names for epoch in epochs for batch in epoch if batch.pixels.ndim == 4] == image_batches


def test_an_epoch_resumes_at_any_batch(make_data):
    for epoch in (0, 2):
        complete = batches(make_data(0.5), epoch)
        for batches_done in (1, 5, 11):
            rest = batches(make_data(0.5), epoch, batches_done)
            assert [batch.names for batch in rest] == [batch.names for batch in complete[batches_done:]]


def test_validation_uses_the_videos(make_data):
    names = [name for batch in make_data().val_dataloader() for name in batch.names]
    assert len(names) == 6
    assert all(name.endswith(".mkv@0.000") for name in names)


def test_an_image_share_that_excludes_a_kind_is_refused(make_data):
    for image_share in (0, 1, -0.5, 2):
        with pytest.raises(SmaltiError, match=f"image_share is {image_share}"):
            make_data(image_share)
