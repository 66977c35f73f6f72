"""The moving average covers the tokenizer only, and its decay is warmed up."""

import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from smalti.errors import SmaltiError
from smalti.tokenizers.checkpoints import load
from smalti.trainers import Checkpoints, TokenizerEMA

NAME = "decoder.conv_out.weight"


def test_checkpoints_contain_the_average_and_the_live_weights(training, trainer, data, tmp_path):
    module = training()
    run = trainer(Checkpoints(every_n_train_steps=100, dirpath=tmp_path), max_steps=2, enable_checkpointing=True)
    start = {k: v.clone() for k, v in module.tokenizer.state_dict().items()}
    weights = []

    class RecordWeights(type(run.recorder)):
        def on_train_batch_end(self, trainer, module, *_):
            weights.append({k: v.clone() for k, v in module.tokenizer.state_dict().items()})

    run.callbacks.append(RecordWeights())
    run.fit(module, data())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    name = "decoder.conv_out.weight"
    # The average starts with the weights after the first step. The second update has the decay 2/11.
    expected = weights[0][name].lerp(weights[1][name], 9 / 11)
    torch.testing.assert_close(checkpoint["state_dict"][f"tokenizer.{name}"], expected)
    assert torch.equal(checkpoint["current_model_state"][f"tokenizer.{name}"], weights[1][name])
    assert not torch.equal(start[name], weights[1][name])
    assert all(key.startswith(("tokenizer.", "gan.")) for key in checkpoint["state_dict"])
    torch.testing.assert_close(load(tmp_path / "last.ckpt").decoder.conv_out.weight.data, expected)


def test_the_callback_is_a_lightning_callback():
    assert issubclass(TokenizerEMA, EMAWeightAveraging)


class OneWeight(pl.LightningModule):
    """A training module whose tokenizer has one weight."""

    def __init__(self):
        super().__init__()
        self.tokenizer = torch.nn.Linear(1, 1, bias=False)


def test_the_first_weights_lose_their_share_in_the_warm_up(trainer):
    """After update n, the share of all earlier updates is the published decay min(decay, (1 + n) / (10 + n))."""
    ema, module = TokenizerEMA(decay=0.9999), OneWeight()
    ema.setup(trainer(), module, "fit")
    for count in range(5001):
        module.tokenizer.weight.data.fill_(count == 0)  # the average is the share of the first weights
        ema._average_model.update_parameters(module)
        if count in (1, 2, 90):
            share = math.prod(min(0.9999, (1 + n) / (10 + n)) for n in range(1, count + 1))
            assert ema._average_model.module.weight.item() == pytest.approx(share, rel=1e-4)
    assert 0.9999**5000 > 0.6
    assert ema._average_model.module.weight.item() < 1e-20


def test_the_decay_is_reached(trainer):
    ema, module = TokenizerEMA(decay=0.5), OneWeight()
    ema.setup(trainer(), module, "fit")
    for count in range(30):
        module.tokenizer.weight.data.fill_(count == 20)  # the warm-up ended after 8 updates
        ema._average_model.update_parameters(module)
    assert ema._average_model.module.weight.item() == 0.5**10


class WhatValidationSees(pl.Callback):
    """Records the weights in validation, by the number of optimizer steps."""

    def __init__(self):
        self.weights = {}

    def on_validation_batch_start(self, trainer, module, *_):
        self.weights[trainer.global_step] = module.tokenizer.state_dict()[NAME].clone()


def test_until_averaging_starts_the_average_is_a_copy_of_the_live_weights(training, trainer, data, tmp_path):
    def fit(folder, steps, resume=None):
        """Average from step 3 on. Saving happens after each step."""
        seen = WhatValidationSees()
        checkpoints = Checkpoints(every_n_train_steps=1, save_top_k=-1, dirpath=tmp_path / folder)
        run = trainer(seen, checkpoints, max_steps=steps, enable_checkpointing=True, val_check_interval=1)
        (ema,) = [c for c in run.callbacks if isinstance(c, TokenizerEMA)]
        ema.update_starting_at_step = 3
        run.fit(training(), data(), ckpt_path=resume)
        return [torch.load(tmp_path / folder / f"step={n}.ckpt", weights_only=True) for n in (1, 2, 3, 4, 5)], seen

    whole, seen = fit("whole", 5)
    average = [checkpoint["state_dict"][f"tokenizer.{NAME}"] for checkpoint in whole]
    live = [checkpoint["current_model_state"][f"tokenizer.{NAME}"] for checkpoint in whole]
    assert all(torch.equal(a, b) for a, b in zip(average[:4], live[:4], strict=True))
    assert torch.equal(seen.weights[2], live[1])
    torch.testing.assert_close(average[4], live[3].lerp(live[4], 9 / 11))
    # A checkpoint of an earlier version contains the initialization as the average until averaging starts.
    old = whole[1]
    old["state_dict"] = old["state_dict"] | {f"tokenizer.{NAME}": torch.zeros_like(live[0])}
    (tmp_path / "resumed").mkdir()
    for number in (1, 2):
        torch.save(old, tmp_path / "resumed" / f"step={number}.ckpt")
    resumed, seen = fit("resumed", 5, tmp_path / "resumed" / "step=2.ckpt")
    assert torch.equal(resumed[4]["state_dict"][f"tokenizer.{NAME}"], average[4])
    assert resumed[4]["averaging_state"] == whole[4]["averaging_state"] == {"n_averaged": 2}
    assert torch.equal(seen.weights[3], live[2])


@pytest.mark.parametrize("options", [{"decay": 1.5}, {"update_every_n_steps": 0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(SmaltiError, match="average"):
        TokenizerEMA(**options)
