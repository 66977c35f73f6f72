"""Augmentations of latents: what they change, what they are trained for, and what validation sees."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.eval.metrics import EquivarianceError
from smalti.tokenizers import Tokenizer
from smalti.tokenizers.base import Decoder, Encoder
from smalti.tokenizers.bottlenecks import KL
from smalti.trainers import LatentDenoising, LatentEquivariance, TokenizerTraining
from smalti.trainers.losses.weighting import weighted_sum
from smalti.types import Batch, Code, Latents


class PatchEncoder(Encoder):
    def __init__(self, dim):
        super().__init__()
        self.stride, self.out_dim = (1, 4, 4), dim
        self.conv = nn.Conv3d(3, dim, (1, 4, 4), self.stride)

    def forward(self, x, state=None):
        return (self.conv(x),)


class PatchDecoder(Decoder):
    def __init__(self, dim):
        super().__init__()
        self.in_dim = dim
        self.out = nn.ConvTranspose3d(dim, 3, (1, 4, 4), (1, 4, 4))

    @property
    def last_layer(self):
        return self.out

    def forward(self, latents, generator=None, state=None):
        return self.out(latents[0])


def train(augmentations, photo, steps=150):
    """Train a linear map of patches on crops of a photo."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(PatchEncoder(12), KL(6, initial_std=0.01), PatchDecoder(6))
    module = TokenizerTraining(tokenizer, {"mse": 1.0, "kl": 1e-4}, latent_augmentations=augmentations)
    optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-2)
    for step in range(steps):
        torch.manual_seed(step)
        y, x = (int(torch.randint(n - 32, ())) for n in photo.shape[2:])
        losses, _ = module.compute_losses(tokenizer, photo[..., y : y + 32, x : x + 32], with_gan=False)
        optimizer.zero_grad()
        weighted_sum(losses, module.weights).backward()
        optimizer.step()
    return tokenizer.eval()


@torch.no_grad()
def equivariance_error(tokenizer, pixels):
    metric = EquivarianceError()
    metric.update_latents(tokenizer, Batch(pixels, ["a"]), tokenizer.encode(pixels))
    return metric.compute("reconstruction")


def test_training_with_transforms_makes_latents_equivariant(photo):
    plain, equivariant = train({}, photo), train({"equivariance": LatentEquivariance()}, photo)
    crop = photo[..., :64, :64]
    assert equivariance_error(equivariant, crop) < 0.7 * equivariance_error(plain, crop)


def test_training_with_noise_makes_the_decoder_robust_to_noise(photo):
    crop = photo[..., :64, :64]
    errors = {}
    for name, tokenizer in {"plain": train({}, photo), "denoising": train({"d": LatentDenoising()}, photo)}.items():
        with torch.no_grad():
            latents = tokenizer.encode(crop)
            torch.manual_seed(0)
            noisy = latents.z + latents.z.std() * torch.randn_like(latents.z)
            decoded = tokenizer.decode(Latents(code=Code(noisy), grids=latents.grids, size=latents.size))
        errors[name] = float(F.mse_loss(decoded, crop))
    assert errors["denoising"] < 0.8 * errors["plain"]


def test_all_losses_compare_with_the_transformed_target(training, batch):
    module = training(latent_augmentations={"e": LatentEquivariance(probability=1.0)})
    targets = []
    module.gan.register_forward_pre_hook(lambda _, inputs: targets.append([x.shape for x in inputs]))
    module.training_step(batch, 0).backward()
    reconstruction, target = targets[0]
    assert reconstruction == target != batch.pixels.shape
    assert max(target[-2:]) < 32


def test_clips_of_a_joint_tokenizer_are_transformed(joint, clip):
    tokenizer = joint().train()
    latents = tokenizer.encode(clip[:, :, :7])
    torch.manual_seed(0)
    moved, target = LatentEquivariance(probability=1.0)(latents, clip[:, :, :7], tokenizer.encoder.stride)
    assert tokenizer.decode(moved).shape == target.shape


def test_a_run_with_both_augmentations_validates_without_them(training, trainer, data, batch):
    module = training(latent_augmentations={"e": LatentEquivariance(probability=1.0), "d": LatentDenoising()})
    run = trainer(max_steps=2, limit_val_batches=1, val_check_interval=1)
    run.fit(module, data())
    assert run.global_step == 2
    module.eval()
    with torch.no_grad():
        assert torch.equal(module.validation_step(batch, 0), module.tokenizer(batch.pixels)[0])


def test_steps_without_a_transform_see_the_original(training, batch):
    module = training(latent_augmentations={"e": LatentEquivariance(probability=0.0)})
    losses, _ = module.compute_losses(module.tokenizer, batch.pixels, with_gan=False)
    torch.testing.assert_close(losses["mse"], F.mse_loss(module.tokenizer(batch.pixels)[0], batch.pixels))


def test_the_default_scales_are_those_of_the_paper():
    latents = Latents.from_grids((torch.zeros(1, 1, 1, 32, 32),), (32, 32))
    pixels = torch.zeros(1, 1, 32, 32)
    torch.manual_seed(0)
    augmentation = LatentEquivariance(probability=1.0)
    rows = {augmentation(latents, pixels, (1, 1, 1))[0].grids[0][1] for _ in range(400)}
    assert rows == set(range(8, 32))


@pytest.mark.parametrize("arguments", [{"probability": 1.5}, {"min_scale": 0}])
def test_invalid_arguments_of_equivariance(arguments):
    with pytest.raises(SmaltiError, match=r"use a probability in \[0, 1\]"):
        LatentEquivariance(**arguments)


def test_negative_noise_is_refused():
    with pytest.raises(SmaltiError, match="gamma -1"):
        LatentDenoising(-1)
