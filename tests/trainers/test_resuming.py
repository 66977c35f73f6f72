"""Settings of the optimizer and the schedule that change when a run is resumed: the recipe's hold."""

import lightning.pytorch as pl
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LinearLR, OneCycleLR, SequentialLR

from smalti.errors import SmaltiError
from smalti.trainers import Checkpoints, WarmupSchedule
from smalti.trainers.schedules import warmup_factor


class Rates(pl.Callback):
    """Records the learning rates and betas of each step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.steps.append([(group["lr"], group["betas"]) for group in trainer.optimizers[0].param_groups])


@pytest.fixture
def fit(training, trainer, data, tmp_path):
    """Return a function that trains without a GAN loss and returns the learning rates and betas of each step."""

    def run(steps, resume=False, **options):
        rates = Rates()
        checkpoints = Checkpoints(every_n_train_steps=100, dirpath=tmp_path)
        run = trainer(checkpoints, rates, max_steps=steps, enable_checkpointing=True)
        module = training(gan=False, weights={"l1": 1.0}, **options)
        run.fit(module, data(), ckpt_path=tmp_path / "last.ckpt" if resume else None)
        return rates.steps, run

    return run


def chain(optimizer, steps):
    warmup = LinearLR(optimizer, total_iters=2)
    return SequentialLR(optimizer, [warmup, ExponentialLR(optimizer, 0.9)], milestones=[2])


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer, steps: OneCycleLR(optimizer, 1e-3, total_steps=steps),  # also cycles the momentum
        lambda optimizer, steps: CosineAnnealingLR(optimizer, steps),
        chain,
    ],
)
def test_a_longer_schedule_holds_from_the_position_of_the_checkpoint(fit, schedule):
    fit(3, scheduler=lambda optimizer: schedule(optimizer, 3))
    resumed, _ = fit(6, resume=True, scheduler=lambda optimizer: schedule(optimizer, 6))
    whole, _ = fit(6, scheduler=lambda optimizer: schedule(optimizer, 6))
    torch.testing.assert_close(resumed, whole[3:], rtol=0, atol=0)


def test_max_steps_alone_extends_a_finished_run(fit):
    """The schedule has no length of its own. The run continues like one with the new length from the start."""
    options = {"scheduler": lambda optimizer: WarmupSchedule(optimizer, warmup_steps=2)}
    fit(4, **options)
    resumed, _ = fit(7, resume=True, **options)
    assert [rates[0][0] for rates in resumed] == [1e-3 * warmup_factor(step, 2, total_steps=7) for step in (4, 5, 6)]


def test_a_changed_learning_rate_applies_and_the_averages_of_the_optimizer_are_kept(fit):
    fit(3, optimizer=lambda groups: torch.optim.Adam(groups, lr=1e-3, betas=(0.5, 0.9)))
    resumed, run = fit(4, resume=True, optimizer=lambda groups: torch.optim.Adam(groups, lr=1e-5, betas=(0.8, 0.9)))
    assert resumed == [[(1e-5, (0.8, 0.9))]]
    assert all(state["step"] == 4 for state in run.optimizers[0].state.values())


def test_a_schedule_can_be_added_and_removed(fit):
    fit(2)
    decay = {"scheduler": lambda optimizer: ExponentialLR(optimizer, 0.5)}
    resumed, _ = fit(3, resume=True, **decay)
    assert resumed[0][0][0] == 1e-3 / 4
    resumed, _ = fit(4, resume=True)
    assert resumed[0][0][0] == 1e-3


def test_numbers_that_an_optimizer_updates_are_restored(fit):
    """Some optimizers keep more than settings in their parameter groups."""

    class Counting(torch.optim.Adam):
        def __init__(self, params, lr=1e-3):
            super().__init__(params, lr=lr, betas=(0.5, 0.9))
            self.defaults["counter"] = 0
            for group in self.param_groups:
                group["counter"] = 0

        def step(self, closure=None):
            for group in self.param_groups:
                group["counter"] += 1
            return super().step(closure)

    fit(2, optimizer=Counting)
    _, run = fit(3, resume=True, optimizer=lambda groups: Counting(groups, lr=1e-4))
    (group,) = run.optimizers[0].param_groups
    assert (group["counter"], group["lr"]) == (3, 1e-4)


def test_a_schedule_that_has_ended_is_refused(fit):
    fit(3)
    with pytest.raises(SmaltiError, match="at step 3, where the recipe's schedule OneCycleLR has already ended"):
        fit(2, resume=True, scheduler=lambda optimizer: OneCycleLR(optimizer, 1e-3, total_steps=2))


def test_other_trained_parameters_are_refused(fit):
    fit(1)
    with pytest.raises(SmaltiError, match=r"resume with the same model\.frozen"):
        fit(2, resume=True, frozen=["encoder"])


def test_the_seed_of_the_checkpoint_is_kept_with_a_warning(fit, monkeypatch, caplog):
    fit(1)
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    fit(2, resume=True)
    assert "The run continues with the seed 0 of its checkpoint." in caplog.text
