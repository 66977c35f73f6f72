"""Muon: equal to torch's Muon and AdamW where these apply; schedules, checkpoints and settings in a training."""

import runpy
from pathlib import Path

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.trainers import Audit, Checkpoints, GANLoss, Muon, PatchDiscriminator, WarmupSchedule
from smalti.trainers.hidden_matrices import hidden_matrices
from smalti.trainers.memory_estimate import estimate_memory
from smalti.trainers.muon import MATRIX_KEY, _assign

SCRIPT = Path(__file__).parent / "muon_on_two_ranks.py"


def make_parameters(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def run(optimizer, parameters, steps=3):
    """Take steps with gradients that depend on nothing else than the step."""
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("shape", [(8, 24), (24, 8)])
@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
def test_matrices_are_updated_as_by_torch(shape, adjust_lr_fn):
    options = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "adjust_lr_fn": adjust_lr_fn}
    (ours,), (theirs,), (start,) = make_parameters(shape), make_parameters(shape), make_parameters(shape)
    run(Muon([ours], **options), [ours])
    run(torch.optim.Muon([theirs], **options), [theirs])  # in bfloat16
    torch.testing.assert_close(ours - start, theirs - start, rtol=0, atol=0.01 * (theirs - start).norm().item())


def test_convolutions_are_updated_as_matrices():
    (conv,), (matrix,) = make_parameters((6, 4, 3, 3)), make_parameters((6, 36))
    run(Muon([conv]), [conv])
    run(Muon([matrix]), [matrix])
    assert torch.equal(conv.flatten(1), matrix)
    channels_last = torch.nn.Parameter(make_parameters((6, 4, 3, 3))[0].detach().to(memory_format=torch.channels_last))
    torch.testing.assert_close(run(Muon([channels_last]), [channels_last])[0], conv.detach(), rtol=1e-5, atol=1e-5)


def test_other_parameters_are_updated_as_by_adamw():
    shapes = [(7,), (3, 3), ()]
    ours, theirs = make_parameters(*shapes), make_parameters(*shapes)
    group = {"params": ours, MATRIX_KEY: [False, False, False]}
    run(Muon([group], adam_lr=2e-3, weight_decay=0.1), ours)
    run(torch.optim.AdamW(theirs, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.1), theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_parameters_without_a_gradient_do_not_change():
    parameters = make_parameters((4, 8), (4,))
    before = [p.detach().clone() for p in parameters]
    Muon(parameters, weight_decay=0.1).step()
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))


def test_a_schedule_scales_both_learning_rates_and_the_discriminator_keeps_its_ratio(training, trainer, data):
    """The discriminator has no matrices: its learning rate is that of Adam."""
    gan = GANLoss(PatchDiscriminator(8, 1), learning_rate=5e-4)
    module = training(
        gan=gan,
        optimizer=lambda groups: Muon(groups, lr=0.02, adam_lr=1e-3),
        scheduler=lambda optimizer: WarmupSchedule(optimizer, warmup_steps=3, decay="constant"),
    )
    audit = Audit()
    fit = trainer(audit, max_steps=1)
    fit.fit(module, data())
    tokenizer, discriminator = fit.optimizers[0].param_groups
    assert (tokenizer["lr"], discriminator["lr"]) == (0.02 * 0.5, 5e-4 * 0.5)  # after one step
    assert (tokenizer["adam_factor"], discriminator["adam_factor"]) == (0.05, 1.0)
    assert (any(tokenizer[MATRIX_KEY]), any(discriminator[MATRIX_KEY])) == (True, False)
    assert audit.changed == {"tokenizer": True, "discriminator": True}
    assert Muon([{"params": make_parameters((3, 3)), MATRIX_KEY: [False]}]).param_groups[0]["lr"] == 1e-3


@pytest.fixture
def fit(training, trainer, data, tmp_path):
    """Return a function that trains, with a checkpoint at the end, and returns the tokenizer's weights and the trainer."""

    def run(steps, *, resume=False, folder="run", optimizer=Muon):
        checkpoints = Checkpoints(every_n_train_steps=1, dirpath=tmp_path / folder)
        run = trainer(checkpoints, max_steps=steps, enable_checkpointing=True, gradient_clip_val=1.0)
        module = training(gan=False, weights={"l1": 1.0}, optimizer=optimizer)
        run.fit(module, data(), ckpt_path=tmp_path / folder / "last.ckpt" if resume else None)
        return module.tokenizer.state_dict(), run

    return run


def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(fit):
    whole, _ = fit(4, folder="whole")
    fit(2)
    resumed, _ = fit(4, resume=True)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_settings_of_the_recipe_hold_when_a_run_is_resumed(fit):
    fit(1)
    _, run = fit(2, resume=True, optimizer=lambda groups: Muon(groups, lr=0.004, adam_lr=1e-4, weight_decay=0.5))
    group = run.optimizers[0].param_groups[0]
    assert (group["lr"], group["adam_lr"], group["adam_factor"], group["weight_decay"]) == (0.004, 1e-4, 0.025, 0.5)


def test_a_run_with_adam_continues_with_muon(fit):
    """Matrices start with new averages, and the others keep theirs."""
    fit(2, optimizer=lambda groups: torch.optim.Adam(groups, lr=1e-3, betas=(0.5, 0.9)))
    _, run = fit(3, resume=True)
    group = run.optimizers[0].param_groups[0]
    for parameter, is_matrix in zip(group["params"], group[MATRIX_KEY], strict=True):
        state = run.optimizers[0].state[parameter]
        assert set(state) == ({"momentum_buffer"} if is_matrix else {"step", "exp_avg", "exp_avg_sq"})
        assert is_matrix or state["step"] == 3
    with pytest.raises(SmaltiError, match="was trained with Muon, and AdamW cannot continue"):
        fit(4, resume=True, optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3, betas=(0.5, 0.9)))


def test_the_estimate_of_the_memory_counts_one_average_for_matrices_and_two_for_others(training):
    module = training(gan=False, optimizer=Muon, weights={"l1": 1.0})
    matrices = sum(p.numel() for p in hidden_matrices(module.tokenizer))
    others = sum(p.numel() for p in module.parameters()) - matrices
    assert estimate_memory(module, 0, averaged=False).optimizer == 4 * (matrices + 2 * others)


def test_two_ranks_equal_one_with_and_without_sharding(tmp_path, run_ranks):
    """They continue the run of one process, and all have the same weights bit by bit."""
    script = runpy.run_path(str(SCRIPT))
    torch.save(script["train"](script["build"](), 1), tmp_path / "one.pt")
    one = script["train"](script["build"](), 3)
    for code, messages in run_ranks(SCRIPT, str(tmp_path)):
        assert code == 0, messages
    names = ("whole_0", "whole_1", "sharded_0")
    whole, other, sharded = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in names)
    assert all(torch.equal(value, other["weights"][name]) for name, value in whole["weights"].items())
    for result in (whole, sharded):
        # Newton-Schulz computes in float32.
        torch.testing.assert_close(result["weights"], one["weights"], rtol=0, atol=1e-5)
        torch.testing.assert_close(result["optimizer"]["state"], one["optimizer"]["state"], rtol=0, atol=1e-5)


def test_work_is_divided_evenly():
    assert _assign([1, 8, 4, 3, 2], 2) == [0, 0, 1, 1, 1]  # 9 and 9
    assert _assign([5, 5], 3) == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "the lr 0.0: use a number greater than 0"),
        ({"adam_lr": float("nan")}, "the adam_lr nan"),
        ({"momentum": 1.0}, "the momentum 1.0"),
        ({"betas": (0.9, 1.5)}, "the betas 1.5"),
        ({"weight_decay": -1.0}, "the weight_decay -1.0"),
        ({"adjust_lr_fn": "spectral"}, "adjust_lr_fn 'spectral': use original or match_rms_adamw"),
        ({"ns_steps": 0}, "the ns_steps 0: use 1 to 10"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(SmaltiError, match=message):
        Muon(make_parameters((2, 2)), **options)


def test_flags_of_another_number_are_refused():
    with pytest.raises(SmaltiError, match="has 1 parameters, but 2 values"):
        Muon([{"params": make_parameters((2, 2)), MATRIX_KEY: [True, False]}])
