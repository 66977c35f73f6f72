"""The audit of the first step finds faults that would train something else than the recipe says."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks import GQ
from smalti.trainers import Audit, GANLoss, PatchDiscriminator, audit
from smalti.trainers.audit import _raise_first_problem, _RankReport, _warn_about_equal_batches
from smalti.trainers.losses import PerceptualLoss

TOKENIZER = ("encoder", "decoder")


def test_each_loss_trains_what_it_should_and_the_run_does_not_change(training, trainer, data):
    """The GAN losses are audited although they start later. Batch norms, LeCAM and random crops do not notice."""
    runs = []
    for callbacks in ([], [Audit()]):
        torch.manual_seed(0)
        module = training(gan=GANLoss(PatchDiscriminator(8, 1), start=2))
        run = trainer(*callbacks, max_steps=3)
        run.fit(module, data())
        runs.append((module.state_dict(), run.recorder.rows))
    (weights, rows), (audited_weights, audited_rows) = runs
    assert rows == audited_rows
    assert all(torch.equal(weights[name], audited_weights[name]) for name in weights)
    (done,) = callbacks
    assert {loss.name: loss.parts for loss in done.losses} == {
        "l1": TOKENIZER, "mse": TOKENIZER, "adversarial": TOKENIZER, "discriminator": ("discriminator",),
        "lecam": ("discriminator",), "token_entropy": ("encoder",), "codebook_entropy": ("encoder",),
        "commitment": ("encoder",),
    }  # fmt: skip
    assert done.finished
    assert len(data().digest()) == 64  # the audit compares it over ranks
    assert done.changed == {"tokenizer": True}  # the discriminator has no gradient before step 2
    assert done.memory.weights == sum(t.numel() * t.element_size() for t in audited_weights.values())
    trained = 4 * sum(p.numel() for p in module.parameters())
    assert (done.memory.gradients, done.memory.optimizer) == (trained, 2 * trained)  # Adam has two moments
    # Each of the eight residual blocks at full resolution, for example, keeps more than one (2, 32, 32, 32) tensor.
    assert done.memory.activations > 8 * 4 * 2 * 32 * 32 * 32


def test_the_memory_of_a_step_includes_the_networks_of_losses(training, trainer, data):
    loss = PerceptualLoss("efflite0")
    check, run = Audit(), trainer(max_steps=1)
    run.callbacks.append(check)
    run.fit(module := training(gan=False, losses={"perceptual": loss}), data())
    (network,) = loss._networks
    theirs = [*network.parameters(), *network.buffers()]
    assert len(theirs) > 100
    expected = {id(t): t for t in (*module.parameters(), *module.buffers(), *theirs)}.values()
    assert check.memory.weights == sum(t.numel() * t.element_size() for t in expected)


def test_too_little_memory_is_one_sentence_with_the_estimate(training, trainer, data, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    module, run = training(gan=False), trainer(max_steps=1)
    run.callbacks.append(Audit())
    monkeypatch.setattr(module, "compute_losses", fail)
    with pytest.raises(
        SmaltiError, match=r"a batch of 2 x 3 x 32 x 32, which needs .* \(weights .*\) without activations: set"
    ):
        run.fit(module, data())


def test_both_branches_of_a_joint_tokenizer_are_audited(training, trainer, data, joint):
    weights = {"l1": 1.0, "kl": 1e-6}
    check, run = Audit(), trainer(max_steps=1)
    run.callbacks.append(check)
    run.fit(training(joint(), gan=False, weights=weights), data())
    assert [(loss.name, loss.branch, loss.parts) for loss in check.losses] == [
        ("l1", "discrete", ("encoder", "bottleneck", "decoder")),
        ("l1", "continuous", TOKENIZER),
        ("kl", "continuous", ("encoder",)),
    ]


# No subclasses of Smalti's classes: the help of the command line, which other tests read, would list them.


class NoGradientLoss(torch.nn.Module):
    """A loss that is computed without gradient."""

    def forward(self, reconstruction, original):
        with torch.no_grad():
            return (reconstruction - original).abs().mean()


def detached(quantizer):
    """Remove the straight-through estimator of a quantizer."""
    quantize = quantizer.quantize

    def without_gradient(h):
        code = quantize(h)
        return replace(code, z=code.z.detach())

    quantizer.quantize = without_gradient
    return quantizer


def attached(gan):
    """Let the losses of the discriminator train the tokenizer."""

    def generator_loss(reconstruction, original):
        gan.attached = reconstruction
        return type(gan).generator_loss(gan, reconstruction, original)

    gan.generator_loss = generator_loss
    gan._real_and_fake_logits = lambda _, original: (gan.discriminator(original), gan.discriminator(gan.attached))
    return gan


class Overwrite(torch.nn.Module):
    """A loss whose forward changes its own weights."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, reconstruction, original):
        self.scale.data += 1
        return (reconstruction - original).abs().mean() * self.scale


def test_faults_are_named(training, trainer, data, small):
    perceptual = {"losses": {"features": NoGradientLoss()}, "weights": {"l1": 1.0, "features": 1.0}}
    overwrite = {"losses": {"features": Overwrite()}, "weights": {"l1": 1.0, "features": 1.0}}
    for expected, options in (
        ("'features' (weight 1) should train decoder and encoder, but its gradient reaches nothing", perceptual),
        ("'l1' (weight 1) should train decoder and encoder, but its gradient reaches decoder",
         {"tokenizer": small(detached(GQ(2, 4)))}),
        ("'discriminator' (weight 1) should train the discriminator only, but its gradient also reaches the encoder and "
         "decoder", {"gan": attached(GANLoss(PatchDiscriminator(8, 1)))}),
        ("changed the network of the loss 'features'", overwrite),
        ("no parameter of the tokenizer: its gradient is zero, or its learning rate, 1e-60, is too small",
         {"optimizer": lambda groups: torch.optim.Adam(groups, lr=1e-60)}),
    ):  # fmt: skip
        with pytest.raises(SmaltiError) as error:
            trainer(Audit(patience=2), max_steps=3).fit(training(**({"gan": False} | options)), data())
        assert expected in str(error.value)


def test_a_learning_rate_of_zero_is_not_a_fault(training, trainer, data):
    """A schedule may start at zero. The audit waits for the first step that changes the weights."""
    check = Audit()
    warmup = training(scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10))
    trainer(check, max_steps=1).fit(warmup, data())
    assert (check.finished, check.changed) == (False, {"tokenizer": False, "discriminator": False})
    trainer(check, max_steps=2).fit(warmup, data())
    assert (check.finished, check.changed) == (True, {"tokenizer": True, "discriminator": True})


def test_ranks_with_other_weights_or_data_are_named(caplog):
    one = _RankReport([], [1, 2], "a", 5)
    _raise_first_problem([one, one], "at the start")
    for other, expected in (
        (_RankReport([], [1, 3], "a"), "The weights of rank 1 differ from those of rank 0 at the start."),
        (_RankReport([], [1, 2], "b"), "The training data of rank 1 differs"),
        (_RankReport(["A problem."], [1, 2], "a"), "A problem."),
    ):
        with pytest.raises(SmaltiError, match=expected):
            _raise_first_problem([one, other], "at the start")
    with caplog.at_level(logging.WARNING):
        _warn_about_equal_batches([one, _RankReport([], [1, 2], "a", 6)])
        assert not caplog.records
        _warn_about_equal_batches([one, one])
    assert "Ranks 0 and 1 train on the same first batch" in caplog.text


def test_gradients_that_are_not_averaged_are_found(training, trainer, data, monkeypatch):
    """Simulates a second rank whose weights are the same before the first step, and others after it."""

    def gather(report):
        after = report.batch is None
        other = SimpleNamespace(problems=[], weights=[0] if after else report.weights, data=report.data, batch=0)
        return [report, other]

    monkeypatch.setattr(audit, "gather", gather)
    with pytest.raises(SmaltiError, match=r"rank 1 differ .* gradients are not averaged"):
        trainer(Audit(), max_steps=1).fit(training(gan=False), data())
