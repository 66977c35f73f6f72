"""Training starts from another tokenizer: from all of its weights, or on demand from those that fit."""

import logging

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from smalti.errors import SmaltiError
from smalti.tokenizers import OneVAEDecoder, OneVAEEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import KL
from smalti.tokenizers.checkpoints import load, save
from smalti.trainers import Checkpoints, TokenizerEMA, WarmStart
from smalti.types import Batch

WEIGHTS = {"l1": 1.0, "kl": 1e-3}


@pytest.fixture
def clips(clip):
    class Clips(LightningDataModule):
        def train_dataloader(self):
            return DataLoader([Batch(clip, ["clip"])] * 2, batch_size=None)

    return Clips()


@pytest.fixture
def continuous(tmp_path):
    """An exported continuous tokenizer of half the latent and without a grid of its own for the first frame."""
    torch.manual_seed(5)
    shape = {"channels": 4, "multipliers": [1, 1], "strides": [[1, 2]], "blocks": 1}
    tokenizer = Tokenizer(OneVAEEncoder(8, **shape), KL(4), OneVAEDecoder(4, **shape))
    for parameter in tokenizer.parameters():  # biases too, as if it were trained
        parameter.data += 0.05 * torch.randn_like(parameter)
    save(tokenizer, tmp_path / "continuous")
    return tokenizer


class Start(Checkpoints):
    """What the run starts from: the live weights, and their average."""

    def on_train_start(self, trainer, module):
        super().on_train_start(trainer, module)
        self.live = {name: w.clone() for name, w in module.tokenizer.state_dict().items()}
        ema = next(callback for callback in trainer.callbacks if isinstance(callback, TokenizerEMA))
        self.average = {
            name.removeprefix("module."): w.clone()
            for name, w in ema._average_model.state_dict().items()
            if name.startswith("module.")
        }


def test_another_architecture_is_adopted_on_demand_and_reported(
    training, trainer, joint, clips, continuous, tmp_path, caplog
):
    start = Start(dirpath=tmp_path)
    run = trainer(WarmStart(tmp_path / "continuous", transfer=True), start, max_steps=1, enable_checkpointing=True)
    module = training(joint(), gan=False, weights=WEIGHTS)
    with caplog.at_level(logging.INFO, logger="smalti"):
        run.fit(module, clips)
    (line,) = [r.getMessage() for r in caplog.records if "Starting from" in r.getMessage()]
    assert "taken" in line
    assert "sliced" in line
    assert line.count("new") == 4  # all, and three parts
    for name in ("encoder.layers.0.conv1.weight", "decoder.layers.0.conv1.weight"):
        assert torch.equal(start.live[name], continuous.state_dict()[name])
    assert torch.equal(start.live["decoder.conv_in.weight"][:, :4], continuous.decoder.conv_in.weight)
    assert start.live["decoder.conv_in.weight"][:, 4:].abs().max() == 0
    assert all(torch.equal(start.live[name], weight) for name, weight in start.average.items())
    load(tmp_path / "last.ckpt")


def test_another_architecture_is_refused_where_nobody_asked(training, trainer, joint, clips, continuous, tmp_path):
    with pytest.raises(SmaltiError, match=r"cannot start from.*set transfer"):
        trainer(WarmStart(tmp_path / "continuous")).fit(training(joint(), gan=False, weights=WEIGHTS), clips)


def test_a_checkpoint_of_training_is_a_source_too(training, trainer, joint, clips, tmp_path):
    run = trainer(Checkpoints(dirpath=tmp_path), max_steps=1, enable_checkpointing=True)
    run.fit(training(joint(), gan=False, weights=WEIGHTS), clips)
    average = load(tmp_path / "last.ckpt").state_dict()
    start = Start(dirpath=tmp_path / "second")
    run = trainer(WarmStart(tmp_path / "last.ckpt", transfer=True), start, max_steps=1, enable_checkpointing=True)
    run.fit(training(joint(seed=9), gan=False, weights=WEIGHTS), clips)
    assert all(torch.equal(start.live[name], weight) for name, weight in average.items())


def test_a_family_that_cannot_adopt_says_so(training, trainer, data, small, tmp_path):
    save(small(), tmp_path / "wetok")
    with pytest.raises(SmaltiError, match=r"Only in OneVAE's family.*without transfer"):
        trainer(WarmStart(tmp_path / "wetok", transfer=True)).fit(training(), data())
