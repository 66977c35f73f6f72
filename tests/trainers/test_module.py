"""The training step: one backward pass for two networks, losses of a recipe, and invalid settings."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from smalti.errors import SmaltiError
from smalti.trainers import GANLoss, PatchDiscriminator, PerceptualLoss, ReconstructionGANLoss, TemporalDiscriminator
from smalti.trainers.losses.reconstruction import reconstruction_losses
from smalti.trainers.losses.weighting import weighted_sum


@pytest.mark.parametrize(
    "gan",
    [
        lambda: GANLoss(PatchDiscriminator(8, 1)),
        lambda: GANLoss(TemporalDiscriminator(8, 1)),
        lambda: ReconstructionGANLoss(TemporalDiscriminator(8, 1, in_channels=6)),
    ],
    ids=["patches", "temporal", "reconstruction"],
)
def test_one_backward_pass_gives_the_gradients_of_two(training, batch, gan):
    """The tokenizer's loss with a constant discriminator, and the discriminator's losses, are differentiated separately."""
    module = training(gan=gan())
    twin = copy.deepcopy(module)
    torch.manual_seed(1)
    module.training_step(batch, 0).backward()

    torch.manual_seed(1)
    x = batch.pixels
    y, latents = twin.tokenizer(x)
    logits = twin.gan._fake_logits(y, x)
    adversarial = torch.nn.functional.softplus(-logits.flatten(1).mean(1)).mean()
    losses = reconstruction_losses(y, x) | {"adversarial": adversarial} | latents.code.losses
    tokenizer_weights = {k: w for k, w in twin.weights.items() if k in losses}
    expected = torch.autograd.grad(weighted_sum(losses, tokenizer_weights), list(twin.tokenizer.parameters()))
    # The same float32 operations, with gradients summed in another order: errors are well below 1000 machine epsilons.
    tolerance = {"rtol": 1e-4, "atol": 1e-6}
    for parameter, gradient in zip(module.tokenizer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **tolerance)

    gan_losses = twin.gan(y.detach(), x)
    expected = torch.autograd.grad(
        gan_losses["discriminator"] + 0.05 * gan_losses["lecam"], list(twin.gan.parameters())
    )
    for parameter, gradient in zip(module.gan.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **tolerance)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_count_batches_after_accumulation(training, trainer, data, accumulate):
    run = trainer(max_steps=2, accumulate_grad_batches=accumulate, gradient_clip_val=1.0)
    run.fit(training(), data())
    assert run.global_step == 2
    assert len(run.recorder.rows) == 2 * accumulate


def test_the_discriminator_does_not_change_before_its_start(training, trainer, data):
    module = training(
        gan=GANLoss(PatchDiscriminator(8, 1), start=3),
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.5),
    )
    before = copy.deepcopy(module.gan.state_dict())
    trainer(max_steps=3).fit(module, data())
    assert all(torch.equal(before[key], value) for key, value in module.gan.state_dict().items())
    trainer(max_steps=4).fit(module, data())
    assert not torch.equal(before["discriminator.body.0.weight"], module.gan.discriminator.body[0].weight)


def test_adaptive_weight_balances_the_gradients_at_the_last_layer(training, batch, toy_loss):
    """The losses of the recipe count as reconstruction losses."""
    module = training(
        gan=GANLoss(PatchDiscriminator(8, 1), adaptive=True),
        losses={"features": toy_loss()},
        weights={"l1": 1.0, "mse": 0.5, "features": 0.3, "adversarial": 0.1, "commitment": 0.25},
    )
    module.training_step(batch, 0)
    y, _ = module.tokenizer(batch.pixels)
    weight = module.tokenizer.decoder.last_layer.weight
    losses = reconstruction_losses(y, batch.pixels, module.losses)
    reconstruction = losses["l1"] + 0.5 * losses["mse"] + 0.3 * losses["features"]
    norm = torch.autograd.grad(reconstruction, weight, retain_graph=True)[0].norm()
    adversarial_norm = torch.autograd.grad(module.gan.generator_loss(y, batch.pixels), weight)[0].norm()
    # The formula adds 1e-4 to the denominator.
    assert float(module._summary.means()["adaptive_weight"]) == pytest.approx(float(norm / adversarial_norm), rel=1e-2)


def test_a_loss_from_outside_the_package_is_trained_on(training, trainer, data, toy_loss):
    """Its weight changes the training, its parameters stay constant, and validation logs it."""
    results = []
    for weight in (0.0, 1.0):
        module = training(gan=False, losses={"features": toy_loss()}, weights={"l1": 1.0, "features": weight})
        before = {name: value.clone() for name, value in module.losses.state_dict().items()}
        run = trainer(max_steps=3, val_check_interval=3)
        run.fit(module, data())
        assert before
        assert all(torch.equal(before[name], value) for name, value in module.losses.state_dict().items())
        assert all(p.grad is None for p in module.losses.parameters())
        results.append(run.callback_metrics)
    assert all({"train/features", "val/features", "val/l1"} <= result.keys() for result in results)
    assert float(results[0]["train/loss"]) == pytest.approx(float(results[0]["train/l1"]))
    total = float(results[1]["train/l1"]) + float(results[1]["train/features"])
    assert float(results[1]["train/loss"]) == pytest.approx(total)
    assert results[0]["train/features"] != results[1]["train/features"]


def test_losses_follow_the_mode_of_the_module(training, toy_loss):
    module = training(losses={"features": toy_loss()})
    assert module.losses["features"].training
    assert not module.eval().losses["features"].training


def test_a_schedule_that_ends_before_the_run_is_refused(training, trainer, data):
    schedule = {"scheduler": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-3, total_steps=3)}
    with pytest.raises(SmaltiError, match="max_steps"):
        trainer(max_steps=4).fit(training(**schedule), data())


def test_misspelled_settings_are_refused(training):
    with pytest.raises(SmaltiError, match="'l3'"):
        training(weights={"l1": 1.0, "l3": 1.0})
    with pytest.raises(SmaltiError, match="'encodr'"):
        training(frozen=["encodr"])
    with pytest.raises(SmaltiError, match=r"'decoder.conv_inn'.*decoder\.conv_in"):
        training(frozen=["decoder.conv_inn"])


def test_a_run_that_trains_nothing_is_refused(training):
    with pytest.raises(SmaltiError, match=r"no parameters to train \(model.frozen: encoder, decoder\)"):
        training(frozen=["encoder", "decoder"])


def test_a_module_of_a_part_can_be_frozen(training):
    module = training(frozen=["decoder.conv_in"])
    parameters = dict(module.tokenizer.named_parameters())
    frozen = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    assert frozen == {name for name in parameters if name.startswith("decoder.conv_in.")}
    assert not module.tokenizer.decoder.conv_in.training
    assert module.tokenizer.decoder.training


def test_a_frozen_encoder_computes_the_codes_of_inference_in_mixed_precision(training, batch):
    module = training(frozen=["encoder"])
    tokenizer, pixels = module.tokenizer, batch.pixels
    expected = tokenizer.encode(pixels).code.ids
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.encode(pixels).code.ids, expected)


def test_a_frozen_bottleneck_has_no_losses(training, batch, caplog):
    module = training(frozen=["bottleneck"])
    module.training_step(batch, 0).backward()
    assert not any("entropy" in name for name in module._summary.means())
    assert module.weights.keys() == {"l1", "mse", "adversarial", "lecam", "discriminator"}


def test_a_declared_loss_that_is_not_computed_is_refused(training, batch):
    module = training()
    module.tokenizer.bottleneck._losses = lambda x, codewords: {}
    with pytest.raises(SmaltiError, match="has a weight but was not computed"):
        module.training_step(batch, 0)


def test_weights_are_described_once_at_the_start_by_rank_0(training, trainer, data, caplog):
    caplog.set_level(logging.INFO, logger="smalti.trainers")

    def messages():
        return [record.getMessage() for record in caplog.records if record.name.startswith("smalti")]

    module = training(gan=False, weights={"l1": 1.0, "token_entropy": 0.1, "commitment": 0.25, "lecam": 0.05})
    run = trainer(max_steps=2, limit_val_batches=1)
    run.validate(module, data(), verbose=False)
    assert not messages()
    run.fit(module, data())
    not_used, no_weight, logged = messages()
    assert not_used == "The weight of lecam is not used: the model has no GAN loss (model.gan)."
    assert "The loss codebook_entropy of GQ has no weight" in no_weight
    assert logged == "Losses without a weight, which are only logged: mse."
    caplog.clear()
    module._trainer = SimpleNamespace(is_global_zero=False, strategy=SimpleNamespace(model=None))
    module.on_fit_start()
    assert not messages()


@pytest.mark.parametrize("weights", [{}, {"adversarial": 0.1, "commitment": 0.25}, {"l1": 0.0, "mse": -1.0}])
def test_training_without_a_reconstruction_loss_is_refused(training, weights):
    """It would end in gray without a word."""
    with pytest.raises(SmaltiError, match="No reconstruction loss has a positive weight") as error:
        training(weights=weights)
    assert all(f"'{name}'" in str(error.value) for name in weights)


def test_removing_the_gan_loss_keeps_the_weights(training, batch):
    module = training(gan=False)
    module.training_step(batch, 0).backward()
    assert "adversarial" not in module._summary.means()


def test_the_perceptual_network_is_not_registered(training, batch):
    module = training(losses={"perceptual": PerceptualLoss("efflite0")}, weights={"perceptual": 1.0})
    assert not any("perceptual" in name for name in module.state_dict())
    assert not list(module.losses.parameters())
    module.training_step(batch, 0).backward()
    assert module.tokenizer.encoder.conv_in.weight.grad.abs().sum() > 0
    network = module.losses["perceptual"]._networks[0]
    module.to(torch.bfloat16)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    module.to("meta")
    assert {p.device.type for p in network.parameters()} == {"meta"}


def test_bf16_true_trains_with_a_perceptual_loss_and_a_gan_loss(training, trainer, data):
    weights = {"l1": 1.0, "perceptual": 1.0, "adversarial": 0.1, "lecam": 0.05}
    module = training(losses={"perceptual": PerceptualLoss("efflite0")}, weights=weights)
    run = trainer(max_steps=2, precision="bf16-true")
    run.fit(module, data())
    assert len(run.recorder.rows) == 2
    assert next(module.tokenizer.parameters()).dtype == torch.bfloat16
    assert float(module.gan.lecam.average_real) != 0


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy])
def test_other_strategies_that_shard_weights_are_refused(training, strategy):
    module = training()
    module._trainer = SimpleNamespace(strategy=strategy.__new__(strategy))
    with pytest.raises(SmaltiError, match=rf"{strategy.__name__} shards all weights.*--trainer.strategy fsdp2"):
        module.setup("fit")


def test_a_fused_optimizer_that_would_clip_scaled_gradients_is_refused(training):
    module = training(optimizer=lambda groups: torch.optim.Adam(groups, lr=1e-3, fused=True))
    module._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=None))
    module.configure_optimizers()
    module._trainer.precision_plugin.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(SmaltiError, match="16-mixed, a fused optimizer"):
        module.configure_optimizers()
