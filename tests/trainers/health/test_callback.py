"""The callback `Health` in real runs: baselines in the log, problems once each, and no effect on the training."""

import logging

import lightning.pytorch as pl
import pytest
import torch

from smalti.eval.baseline import equal_bits_factor, make_baseline
from smalti.eval.functional import psnr
from smalti.eval.linear_codec import LinearCodec
from smalti.pixels import pixels_to_uint8
from smalti.tokenizers.bottlenecks import FSQ, GQ, KL
from smalti.trainers import GANLoss, Health, PatchDiscriminator
from smalti.trainers.health import CODEC_FILE, callback
from smalti.trainers.health.loss_gradients import PIXELS

BASELINES = ("mean_color", "bicubic", "linear_codec")


@pytest.fixture
def judge_at_once(monkeypatch):
    """Judge runs of any age."""
    monkeypatch.setattr(callback, "YOUNG", 0)


def validation_metrics(trainer):
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/psnr")}


def test_baselines_are_logged_and_the_run_is_the_same_with_and_without_them(training, trainer, data, judge_at_once):
    runs = []
    for callbacks in ([], [Health(samples=12)]):
        run = trainer(*callbacks, max_steps=3, val_check_interval=1)
        torch.manual_seed(0)
        module = training(gan=GANLoss(PatchDiscriminator(8, 1)))
        run.fit(module, data())
        runs.append((module.state_dict(), run.recorder.rows, run))
    (weights, rows, _), (watched, watched_rows, run) = runs
    assert rows == watched_rows
    assert all(torch.equal(weights[name], watched[name]) for name in weights)
    metrics = validation_metrics(run)
    assert set(metrics) == {"val/psnr", *(f"val/psnr_{name}" for name in BASELINES)}
    assert metrics["val/psnr_mean_color"] < metrics["val/psnr_bicubic"]
    (health,) = callbacks
    assert set(health.training.gradient_shares) == {
        PIXELS,
        "adversarial",
        "commitment",
        "token_entropy",
        "codebook_entropy",
    }
    assert [point.step for point in health.training.history] == [1, 2, 3]


def test_baselines_are_measured_on_the_validation_samples(training, trainer, data):
    health = Health(samples=8)
    run = trainer(health, max_steps=1, val_check_interval=1)
    run.fit(training(gan=False), datamodule=data())
    metrics = validation_metrics(run)
    samples = [batch.pixels for batch in data().val_dataloader()]
    color = torch.tensor(health.baselines.mean_color).view(1, 3, 1, 1)
    expected = dict.fromkeys(BASELINES, 0.0)
    for pixels in samples:
        original = pixels_to_uint8(pixels)
        for name, output in (
            ("mean_color", pixels_to_uint8(color.expand_as(pixels))),
            ("bicubic", make_baseline(original, equal_bits_factor((1, 32, 32), 8 * 64, 1))),
            ("linear_codec", pixels_to_uint8(health.baselines.codec.reconstruct(pixels))),
        ):
            expected[name] += float(psnr(original, output).sum())
    count = sum(map(len, samples))
    for name in BASELINES:
        assert metrics[f"val/psnr_{name}"] == pytest.approx(expected[name] / count, rel=1e-5), name
    assert health.baselines.codec.bits_per_position == pytest.approx(8, abs=1)  # GQ: 2 x 4 bits


def test_samples_are_measured_once(training, trainer, data, monkeypatch):
    calls = []
    measure = callback.Baselines._psnr
    monkeypatch.setattr(
        callback.Baselines, "_psnr", lambda self, original: calls.append(len(original)) or measure(self, original)
    )
    trainer(Health(samples=4), max_steps=3, val_check_interval=1).fit(training(gan=False), data())
    assert sum(calls) == len(data().validation)


def test_the_codec_is_saved_after_the_first_step_and_a_resumed_run_loads_it(training, trainer, data, tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger

    logger = {"logger": TensorBoardLogger(tmp_path, name="", version="run")}
    first = trainer(Health(samples=4), max_steps=1, val_check_interval=1, **logger)
    first.fit(training(gan=False), data())
    codec = LinearCodec.load(tmp_path / "run" / CODEC_FILE)
    first.save_checkpoint(tmp_path / "run" / "last.ckpt")
    resumed = Health(samples=8)  # other samples would give another codec
    again = trainer(resumed, max_steps=2, val_check_interval=1, **logger)
    again.fit(training(gan=False), data(), ckpt_path=tmp_path / "run" / "last.ckpt")
    assert resumed.baselines.codec.components.directions.equal(codec.components.directions)
    assert [point.step for point in resumed.training.history] == [1, 2]


class Outputs(pl.Callback):
    """Replaces reconstructions before `Health` sees them: by black until a step, then by the originals."""

    def __init__(self, solved_at):
        self.solved_at = solved_at

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, *_):
        is_solved = trainer.global_step >= self.solved_at
        outputs.copy_(batch.pixels if is_solved else -torch.ones_like(outputs))

    def on_validation_epoch_end(self, trainer, pl_module):
        metrics = pl_module._validation_metrics[""]
        metrics._sums["psnr"] = metrics._samples * (50.0 if trainer.global_step >= self.solved_at else 5.0)


def problems(caplog):
    messages = [record.getMessage() for record in caplog.records]
    return [message for message in messages if message.startswith(("Problem", "Solved"))]


def test_a_problem_is_logged_after_two_validations_and_once_more_when_it_is_over(
    training, trainer, data, caplog, judge_at_once
):
    health = Health(samples=4)
    with caplog.at_level(logging.WARNING, "smalti"):
        trainer(Outputs(4), health, max_steps=5, val_check_interval=1).fit(training(gan=False), data())
    stuck = [line for line in problems(caplog) if "(stuck at gray)" in line]
    assert len(stuck) == 2
    assert stuck[0].startswith(
        "Problem at step 2 (stuck at gray): The reconstructions are no better than one color: 5.00"
    )
    assert stuck[1].startswith("Solved at step 4 (stuck at gray): 50.00 dB")


def test_nothing_is_said_about_a_young_run(training, trainer, data, caplog):
    with caplog.at_level(logging.WARNING, "smalti"):
        trainer(Outputs(9), Health(samples=4), max_steps=3, val_check_interval=1).fit(training(gan=False), data())
    assert problems(caplog) == []


@pytest.mark.parametrize("bottleneck", [KL(6), FSQ([4, 4])])
def test_continuous_and_discrete_tokenizers_have_a_codec_of_their_size(small, training, trainer, data, bottleneck):
    health = Health(samples=4)
    run = trainer(health, max_steps=1, val_check_interval=1)
    run.fit(training(small(bottleneck), gan=False, weights={"l1": 1.0}), data())
    codec = health.baselines.codec
    if isinstance(bottleneck, KL):
        assert codec.bits_per_position is None
        assert len(codec.components.directions) == 6
    else:
        assert codec.bits_per_position == pytest.approx(4, abs=0.5)
    assert validation_metrics(run)["val/psnr_linear_codec"] > validation_metrics(run)["val/psnr_mean_color"]


def test_without_validation_or_samples_nothing_is_fitted(training, trainer, data):
    health = Health(samples=0)
    run = trainer(health, max_steps=1, val_check_interval=1)
    run.fit(training(gan=False), data())
    assert set(validation_metrics(run)) == {"val/psnr", "val/psnr_mean_color", "val/psnr_bicubic"}
    health = Health()
    trainer(health, max_steps=1, limit_val_batches=0).fit(training(gan=False), data())
    assert health.baselines is None


def test_a_loss_with_a_huge_weight_dominates(small, training, trainer, data, judge_at_once):
    shares = {}
    for weight in (0.1, 1e4):
        health = Health(samples=4)
        module = training(small(GQ(2, 4)), gan=False, weights={"l1": 1.0, "commitment": weight})
        trainer(health, max_steps=2, val_check_interval=1).fit(module, data())
        shares[weight] = health.training.gradient_shares
    assert shares[0.1]["commitment"] < 0.9 < shares[1e4]["commitment"]
    assert shares[1e4][PIXELS] == 1.0  # at the reconstruction, where the commitment has no gradient
