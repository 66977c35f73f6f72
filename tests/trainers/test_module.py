"""One step is two; a resumed run is the unbroken one; a number that is not finite goes nowhere."""

import copy
import os
import signal

import pytest
import torch

from smalti.errors import DivergedError, SmaltiError
from smalti.tokenizers.checkpoints import load, save
from smalti.trainers import (
    Checkpoints,
    GANLoss,
    PatchDiscriminator,
    PerceptualLoss,
    ReconstructionGANLoss,
    TemporalDiscriminator,
    TokenizerEMA,
    WarmStart,
)
from smalti.trainers.losses.terms import reconstruction_terms, weighted_sum


@pytest.mark.parametrize(
    "adversary",
    [
        lambda: GANLoss(PatchDiscriminator(8, 1)),
        lambda: GANLoss(TemporalDiscriminator(8, 1)),
        lambda: ReconstructionGANLoss(TemporalDiscriminator(8, 1, in_channels=6)),
    ],
    ids=["patches", "temporal", "reconstruction"],
)
def test_one_backward_pass_gives_the_gradients_of_two(training, batch, adversary):
    """The sum's gradients are those of the tokenizer's loss with the discriminator held, and of the discriminator's own."""
    module = training(gan=adversary())
    module.log_dict = module.log = lambda *_, **__: None
    twin = copy.deepcopy(module)
    torch.manual_seed(1)
    module.training_step(batch, 0).backward()

    torch.manual_seed(1)
    x = batch.pixels
    y, latents = twin.tokenizer(x)
    logits = twin.gan._fake(x, y)
    adversarial = torch.nn.functional.softplus(-logits.flatten(1).mean(1)).mean()
    terms = reconstruction_terms(x, y, None) | {"adversarial": adversarial} | latents.code.losses
    tokenizer_weights = {k: w for k, w in twin.weights.items() if k in terms}
    expected = torch.autograd.grad(weighted_sum(terms, tokenizer_weights), list(twin.tokenizer.parameters()))
    for ours, theirs in zip(module.tokenizer.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.grad, theirs, rtol=1e-4, atol=1e-6)

    game = twin.gan(x, y.detach())
    own = torch.autograd.grad(game["discriminator"] + 0.05 * game["lecam"], list(twin.gan.parameters()))
    for ours, theirs in zip(module.gan.parameters(), own, strict=True):
        torch.testing.assert_close(ours.grad, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_count_batches_over_accumulation(training, trainer, data, accumulate):
    run = trainer(max_steps=2, accumulate_grad_batches=accumulate, gradient_clip_val=1.0)
    run.fit(training(), data())
    assert run.global_step == 2
    assert len(run.losses.rows) == 2 * accumulate


@pytest.mark.parametrize("generative", [False, True])
def test_a_resumed_run_is_the_unbroken_one(training, trainer, data, small, tmp_path, generative):
    """Losses, weights, averages, LeCAM, spectral norms, optimizer, schedule, data order and noise: all exactly."""

    def module():
        schedule = {"scheduler": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step))}
        tokenizer = small(generative=generative)  # which seeds what follows
        discriminator = PatchDiscriminator(8, 1) if generative else TemporalDiscriminator(8, 1)
        return training(tokenizer, gan=GANLoss(discriminator, start=2), **schedule)

    whole = trainer(max_steps=8)  # an epoch has six batches
    unbroken = module()
    whole.fit(unbroken, data())
    first = trainer(Checkpoints(every_n_train_steps=100, dirpath=tmp_path), max_steps=4, enable_checkpointing=True)
    first.fit(module(), data())
    second = trainer(max_steps=8)
    resumed = module()
    torch.manual_seed(12345)  # another process would have another random state
    second.fit(resumed, data(), ckpt_path=tmp_path / "last.ckpt")
    assert first.losses.rows + second.losses.rows == whole.losses.rows
    assert whole.losses.rows[1]["train/discriminator"] == 0
    assert whole.losses.rows[2]["train/discriminator"] > 0
    states = [m.state_dict() for m in (unbroken, resumed)]  # the average, as fit leaves it
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert states[0]["gan.lecam.average_real"] != 0


def test_the_discriminator_rests_before_its_start(training, trainer, data):
    module = training(
        gan=GANLoss(PatchDiscriminator(8, 1), start=3),
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.5),
    )
    before = copy.deepcopy(module.gan.state_dict())
    trainer(max_steps=3).fit(module, data())
    assert all(torch.equal(before[key], value) for key, value in module.gan.state_dict().items())
    trainer(max_steps=4).fit(module, data())
    assert not torch.equal(before["discriminator.body.0.weight"], module.gan.discriminator.body[0].weight)


def test_adaptive_weight_balances_the_last_layer(training, batch):
    module = training(gan=GANLoss(PatchDiscriminator(8, 1), adaptive=True))
    logged = {}
    module.log_dict = lambda *_, **__: None
    module.log = lambda name, value, **_: logged.update({name: value})
    module.training_step(batch, 0)
    y, _ = module.tokenizer(batch.pixels)
    weight = module.tokenizer.decoder.last_layer.weight
    terms = reconstruction_terms(batch.pixels, y, None)
    reconstruction = torch.autograd.grad(terms["l1"] + 0.5 * terms["mse"], weight, retain_graph=True)[0].norm()
    adversarial = torch.autograd.grad(module.gan.generator_loss(batch.pixels, y), weight)[0].norm()
    assert logged["train/adaptive_weight"] == pytest.approx(float(reconstruction / adversarial), rel=1e-2)


def test_a_loss_that_is_not_finite_stops_before_it_spoils(training, trainer, data, tmp_path):
    module = training()
    step = module.training_step

    def poisoned(batch, batch_idx):
        if module.global_step == 2:
            batch.pixels[0, 0, 0, 0] = float("nan")
        return step(batch, batch_idx)

    module.training_step = poisoned
    run = trainer(Checkpoints(every_n_train_steps=100, dirpath=tmp_path), max_steps=5, enable_checkpointing=True)
    with pytest.raises(DivergedError) as caught:
        run.fit(module, data())
    names = run.losses.rows[0]["names"]
    assert "Step 2" in str(caught.value)
    assert "l1" in str(caught.value)
    assert names[0].endswith((".png", ".jpg"))
    assert any(name in str(caught.value) for name in data().train._names)
    saved = load(tmp_path / "last.ckpt")
    assert all(p.isfinite().all() for p in saved.parameters())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert all(value.isfinite().all() for value in checkpoint["current_model_state"].values())


def test_an_interrupted_run_goes_on_exactly(training, trainer, data, small, tmp_path):
    """Ctrl-C in the middle of an accumulation: its step is finished, saved, and the noise goes on where it was."""
    options = {"accumulate_grad_batches": 2, "max_steps": 5}
    whole = trainer(**options)
    whole.fit(training(small(generative=True)), data())
    module = training(small(generative=True))
    step = module.training_step

    def interrupted(batch, batch_idx):
        if module.global_step == 1 and batch_idx % 2 == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return step(batch, batch_idx)

    module.training_step = interrupted
    first = trainer(Checkpoints(every_n_train_steps=100, dirpath=tmp_path), enable_checkpointing=True, **options)
    with pytest.raises(SystemExit):
        first.fit(module, data())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    second = trainer(**options)
    second.fit(training(small(generative=True)), data(), ckpt_path=tmp_path / "last.ckpt")
    rows = first.losses.rows + second.losses.rows
    for ours, theirs in zip(rows, whole.losses.rows, strict=True):
        # Norms are logged once an accumulation, and linger in the log of the process that logged them.
        assert ours == {name: value for name, value in theirs.items() if name in ours}
        assert {name for name in theirs if "norm" not in name} <= ours.keys()


def test_a_schedule_that_ends_before_the_run_is_refused(training, trainer, data):
    schedule = {"scheduler": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-3, total_steps=3)}
    with pytest.raises(SmaltiError, match="max_steps"):
        trainer(max_steps=4).fit(training(**schedule), data())


def test_a_checkpoint_without_the_recipes_adversary_is_refused(training, trainer, data, tmp_path):
    run = trainer(Checkpoints(dirpath=tmp_path), max_steps=1, enable_checkpointing=True)
    run.fit(training(gan=False, weights={"l1": 1.0}), data())
    with pytest.raises(SmaltiError, match=r"gan\..* is only in the recipe"):
        trainer().fit(training(), data(), ckpt_path=tmp_path / "last.ckpt")


def test_averages_are_of_the_tokenizer_alone(training, trainer, data, tmp_path):
    module = training()
    run = trainer(Checkpoints(every_n_train_steps=100, dirpath=tmp_path), max_steps=2, enable_checkpointing=True)
    start = {k: v.clone() for k, v in module.tokenizer.state_dict().items()}
    weights = []

    class Watch(type(run.losses)):
        def on_train_batch_end(self, trainer, module, *_):
            weights.append({k: v.clone() for k, v in module.tokenizer.state_dict().items()})

    run.callbacks.append(Watch())
    run.fit(module, data())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    name = "decoder.conv_out.weight"
    expected = 0.9 * weights[0][name] + 0.1 * weights[1][name]  # the average starts at the first step's weights
    torch.testing.assert_close(checkpoint["state_dict"][f"tokenizer.{name}"], expected)
    assert torch.equal(checkpoint["current_model_state"][f"tokenizer.{name}"], weights[1][name])
    assert not torch.equal(start[name], weights[1][name])
    assert all(key.startswith(("tokenizer.", "gan.")) for key in checkpoint["state_dict"])
    torch.testing.assert_close(load(tmp_path / "last.ckpt").decoder.conv_out.weight.data, expected)


def test_second_stage_starts_from_the_first(training, trainer, data, small, photo, tmp_path):
    stage1 = small(seed=3)
    save(stage1, tmp_path / "stage1")
    module = training(
        small(generative=True, seed=4),
        frozen=["encoder", "bottleneck"],
        weights={"l1": 1.0, "adversarial": 0.1, "lecam": 0.05},
    )
    run = trainer(WarmStart(tmp_path / "stage1"), max_steps=2)
    before = stage1(photo)[0].detach()

    class FirstLook(type(run.losses)):
        def on_train_start(self, trainer, module):
            module.eval()
            torch.testing.assert_close(module.tokenizer(photo)[0], before, rtol=0, atol=1e-5)
            module.train()

    run.callbacks.append(FirstLook())
    run.fit(module, data())
    for name, weight in stage1.encoder.state_dict().items():
        assert torch.equal(module.tokenizer.encoder.state_dict()[name], weight)
    noise = module.tokenizer.decoder.conv_in.weight[:, 8:]
    assert noise.abs().max() > 0  # it has begun to listen to the noise


def test_warm_start_refuses_another_architecture(training, trainer, data, small, tmp_path):
    from smalti.tokenizers.bottlenecks import GQ

    save(small(GQ(3, 4)), tmp_path / "other")
    with pytest.raises(SmaltiError, match=r"cannot start from.*conv_in"):
        trainer(WarmStart(tmp_path / "other")).fit(training(), data())


def test_misspelt_settings_are_refused(training, trainer, data):
    with pytest.raises(SmaltiError, match="'l3'"):
        trainer().fit(training(weights={"l3": 1.0}), data())
    with pytest.raises(SmaltiError, match="'encodr'"):
        training(frozen=["encodr"])


def test_a_checkpoint_of_another_tokenizer_is_refused(training, trainer, data, small, tmp_path):
    from smalti.tokenizers.bottlenecks import GQ

    run = trainer(Checkpoints(dirpath=tmp_path), max_steps=1, enable_checkpointing=True)
    run.fit(training(), data())
    with pytest.raises(SmaltiError, match="another tokenizer"):
        trainer().fit(training(small(GQ(2, 4, codebook_entropy="pooled"))), data(), ckpt_path=tmp_path / "last.ckpt")


def test_validation_is_the_mean_over_samples(training, trainer, data):
    """Four photos in batches of three: the last batch must not weigh as much as the first."""
    module = training(gan=False, weights={"l1": 1.0})
    results = [trainer().validate(module, data(batch_size=size), verbose=False)[0] for size in (1, 3)]
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert {"val/psnr", "val/l1", "val/mse", "val/codebook_used_0", "val/codebook_perplexity_1"} <= results[0].keys()


def test_perceptual_network_is_no_part_of_the_model(training, batch):
    module = training(perceptual=PerceptualLoss("efflite0"), weights={"perceptual": 1.0})
    assert not any("perceptual" in name for name in module.state_dict())
    module.log_dict = module.log = lambda *_, **__: None
    module.training_step(batch, 0).backward()
    assert module.tokenizer.encoder.conv_in.weight.grad.abs().sum() > 0
    module.to(torch.float64)
    assert next(module.perceptual._networks[0].parameters()).dtype == torch.float64


def test_ema_class_is_lightnings():
    from lightning.pytorch.callbacks import EMAWeightAveraging

    assert issubclass(TokenizerEMA, EMAWeightAveraging)
