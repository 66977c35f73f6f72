"""Starting from the weights of another tokenizer: all of them, or with `transfer` the ones that fit."""

import copy
import logging

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from smalti.errors import SmaltiError
from smalti.tokenizers import OneVAEDecoder, OneVAEEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import GQ, KL
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
    """Export a continuous tokenizer with half the latent channels and no separate grid for the first frame; return it."""
    torch.manual_seed(5)
    shape = {"channels": 4, "multipliers": [1, 1], "strides": [[1, 2]], "blocks": 1}
    tokenizer = Tokenizer(OneVAEEncoder(8, **shape), KL(4), OneVAEDecoder(4, **shape))
    for parameter in tokenizer.parameters():  # also biases, as after training
        parameter.data += 0.05 * torch.randn_like(parameter)
    save(tokenizer, tmp_path / "continuous")
    return tokenizer


class InitialWeights(Checkpoints):
    """Records the weights that training starts from, and their average."""

    def on_train_start(self, trainer, module):
        super().on_train_start(trainer, module)
        self.live = {name: w.clone() for name, w in module.tokenizer.state_dict().items()}
        ema = next(callback for callback in trainer.callbacks if isinstance(callback, TokenizerEMA))
        self.average = {
            name.removeprefix("module."): w.clone()
            for name, w in ema._average_model.state_dict().items()
            if name.startswith("module.")
        }


def test_second_stage_starts_from_the_first(training, trainer, data, small, photo, tmp_path):
    stage1 = small(seed=3)
    save(stage1, tmp_path / "stage1")
    module = training(
        small(generative=True, seed=4),
        frozen=["encoder", "bottleneck"],
        weights={"l1": 1.0, "adversarial": 0.1, "lecam": 0.05},
    )
    run = trainer(WarmStart(tmp_path / "stage1"), max_steps=2)
    encoder = {name: weight.clone() for name, weight in stage1.encoder.state_dict().items()}
    pixels = photo.double()
    expected = stage1.double()(pixels)[0].detach()

    class CheckFunction(type(run.recorder)):
        def on_train_start(self, trainer, module):
            # In float64, because the first convolution also sums over the noise channels, whose weights are zero.
            tokenizer = copy.deepcopy(module.tokenizer).double().eval()
            torch.testing.assert_close(tokenizer(pixels)[0], expected)

    run.callbacks.append(CheckFunction())
    run.fit(module, data())
    for name, weight in encoder.items():
        assert torch.equal(module.tokenizer.encoder.state_dict()[name], weight)
    noise = module.tokenizer.decoder.conv_in.weight[:, 8:]
    assert noise.abs().max() > 0  # trained


def test_another_architecture_is_refused(training, trainer, data, small, tmp_path):
    save(small(GQ(3, 4)), tmp_path / "other")
    with pytest.raises(SmaltiError, match=r"cannot start from.*conv_in"):
        trainer(WarmStart(tmp_path / "other")).fit(training(), data())


def test_transfer_loads_what_fits_and_reports_it(training, trainer, joint, clips, continuous, tmp_path, caplog):
    start = InitialWeights(dirpath=tmp_path)
    run = trainer(WarmStart(tmp_path / "continuous", transfer=True), start, max_steps=1, enable_checkpointing=True)
    module = training(joint(), gan=False, weights=WEIGHTS)
    with caplog.at_level(logging.INFO, logger="smalti"):
        run.fit(module, clips)
    (line,) = [r.getMessage() for r in caplog.records if "Starting from" in r.getMessage()]
    assert " copied" in line
    assert "partially copied" in line
    assert line.count("new") == 4  # all, and three parts
    for name in ("encoder.layers.0.conv1.weight", "decoder.layers.0.conv1.weight"):
        assert torch.equal(start.live[name], continuous.state_dict()[name])
    assert torch.equal(start.live["decoder.conv_in.weight"][:, :4], continuous.decoder.conv_in.weight)
    assert start.live["decoder.conv_in.weight"][:, 4:].abs().max() == 0
    assert all(torch.equal(start.live[name], weight) for name, weight in start.average.items())
    load(tmp_path / "last.ckpt")


def test_without_transfer_another_architecture_is_refused(training, trainer, joint, clips, continuous, tmp_path):
    with pytest.raises(SmaltiError, match=r"cannot start from.*set transfer"):
        trainer(WarmStart(tmp_path / "continuous")).fit(training(joint(), gan=False, weights=WEIGHTS), clips)


def test_a_training_checkpoint_is_a_source(training, trainer, joint, clips, tmp_path):
    run = trainer(Checkpoints(dirpath=tmp_path), max_steps=1, enable_checkpointing=True)
    run.fit(training(joint(), gan=False, weights=WEIGHTS), clips)
    average = load(tmp_path / "last.ckpt").state_dict()
    start = InitialWeights(dirpath=tmp_path / "second")
    run = trainer(WarmStart(tmp_path / "last.ckpt", transfer=True), start, max_steps=1, enable_checkpointing=True)
    run.fit(training(joint(seed=9), gan=False, weights=WEIGHTS), clips)
    assert all(torch.equal(start.live[name], weight) for name, weight in average.items())


def test_transfer_to_another_family_is_refused(training, trainer, data, small, tmp_path):
    save(small(), tmp_path / "wetok")
    with pytest.raises(SmaltiError, match="transfer"):
        trainer(WarmStart(tmp_path / "wetok", transfer=True)).fit(training(), data())
