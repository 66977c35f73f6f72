"""Images of several sizes: every batch has one size, on every process the same, and a run resumes at any batch."""

from collections import Counter
from types import SimpleNamespace

import pytest

from smalti.data import Folder, MultiSizeImageData
from smalti.data.sampler import TrainingPosition
from smalti.errors import SmaltiError


@pytest.fixture
def make_data(make_folder):
    source = Folder(make_folder(6))

    def make(rank=0, world_size=1, **settings):
        data = MultiSizeImageData(source, source, **{"sizes": (8, 16), "batch_sizes": (3, 1), "workers": 0, **settings})
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
        return data

    return make


def batches(data, epoch=0, batches_done=0):
    data.position = lambda: TrainingPosition(epoch, batches_done)
    return list(data.train_dataloader())


def sizes(epoch):
    return [batch.pixels.shape[-1] for batch in epoch]


def test_each_batch_has_one_size_and_an_epoch_uses_each_image_at_each_size(make_data):
    epoch = batches(make_data())
    assert {tuple(batch.pixels.shape) for batch in epoch} == {(3, 3, 8, 8), (1, 3, 16, 16)}
    for size in (8, 16):
        names = Counter(name for batch in epoch if batch.pixels.shape[-1] == size for name in batch.names)
        assert len(names) == 6
        assert set(names.values()) == {1}


def test_the_order_of_sizes_differs_by_epoch_and_agrees_between_processes(make_data):
    orders = [sizes(batches(make_data(), epoch)) for epoch in range(4)]
    assert len({tuple(order) for order in orders}) > 2
    ranks = [batches(make_data(rank, 2, batch_sizes=(1, 1))) for rank in range(2)]
    assert sizes(ranks[0]) == sizes(ranks[1])
    assert all(first.names != second.names for first, second in zip(*ranks, strict=True))


def test_an_epoch_resumes_at_any_batch(make_data):
    for epoch in (0, 2):
        complete = batches(make_data(), epoch)
        for done in (1, 4, 7):
            rest = batches(make_data(), epoch, done)
            assert [(b.names, b.pixels.tolist()) for b in rest] == [
                (b.names, b.pixels.tolist()) for b in complete[done:]
            ]


def test_validation_has_the_largest_size(make_data):
    found = list(make_data().val_dataloader())
    assert sum(len(batch.names) for batch in found) == 6
    assert set(sizes(found)) == {16}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": (8,), "batch_sizes": (1,)}, "at least two different sizes"),
        ({"sizes": (8, 8)}, "at least two different sizes"),
        ({"batch_sizes": (1,)}, "one batch size per size"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings, message, make_data):
    with pytest.raises(SmaltiError, match=message):
        make_data(**settings)
