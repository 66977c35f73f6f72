"""A few batches of the training data for callbacks, without any effect on the run."""

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from smalti.trainers.rank_errors import RankError
from smalti.trainers.training_batches import load_training_batches
from smalti.types import Batch


class Load(pl.Callback):
    """Loads batches before training."""

    def __init__(self, samples=5):
        self.samples = samples

    def on_fit_start(self, trainer, module):
        self.state = torch.get_rng_state()
        self.batches = load_training_batches(trainer, self.samples)
        assert torch.get_rng_state().equal(self.state)


def test_batches_are_complete_and_the_run_is_the_same_with_and_without_them(training, trainer, data):
    rows = []
    for callbacks in ([], [Load()]):
        run = trainer(*callbacks, max_steps=2)
        run.fit(training(gan=False), datamodule=data(repeats=2))
        rows.append(run.recorder.rows)
    assert rows[0] == rows[1]
    batches = callbacks[0].batches
    assert len(batches) == len(batches.images) == 3  # of two samples
    assert not len(batches.clips)
    for pixels in batches:
        assert pixels.shape == (2, 3, 32, 32)
        assert pixels.dtype == torch.float32
        assert -1 <= pixels.min() < pixels.max() <= 1


def test_no_more_batches_are_loaded_than_an_epoch_has(training, trainer, data):
    load = Load(samples=10_000)
    module = data()
    trainer(load, max_steps=1).fit(training(gan=False), datamodule=module)
    assert len(load.batches) == len(module.train_dataloader())


def test_a_plain_loader_is_iterated_once_more(training, trainer, photo):
    crops = [photo[0, :, :32, 8 * i : 8 * i + 32] for i in range(6)]
    loader = DataLoader(crops, batch_size=2, shuffle=True, collate_fn=lambda x: Batch(torch.stack(x), ["x"] * len(x)))
    rows, load = [], Load(samples=4)
    for callbacks in ([], [load]):
        torch.manual_seed(0)
        run = trainer(*callbacks, max_steps=2)
        run.fit(training(gan=False), loader)
        rows.append(run.recorder.rows)
    assert rows[0] == rows[1]
    assert [len(batch) for batch in load.batches] == [2, 2]


def test_unreadable_data_stops_all_ranks(training, trainer, tmp_path, data):
    module = data()
    module.preview_loaders = lambda: [DataLoader(_Broken(), batch_size=None)]
    with pytest.raises(RankError, match="Rank 0: this file is damaged"):
        trainer(Load()).fit(training(gan=False), datamodule=module)


class _Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        from smalti.errors import SmaltiError

        raise SmaltiError("this file is damaged.")
