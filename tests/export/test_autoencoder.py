"""Continuous tokenizers have the interface of diffusers' autoencoders."""

import runpy
from pathlib import Path

import pytest
import torch

import smalti
from smalti.errors import SmaltiError
from smalti.export.autoencoder import Autoencoder
from smalti.tokenizers import onevae
from smalti.tokenizers.bottlenecks import FSQ, KL, Joint, Projected


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    joint = Joint(KL(4), Projected(FSQ([8, 8, 8]), dim=4, in_dim=8))
    return onevae(joint, stride=(2, 4, 4), channels=4, blocks=1).eval().requires_grad_(False)


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 3, 5, 8, 8)])
def test_mode_and_decode_equal_the_tokenizer(tokenizer, shape):
    x = torch.rand(shape) * 2 - 1
    vae, continuous = Autoencoder(tokenizer), tokenizer.as_continuous()
    distribution = vae.encode(x).latent_dist
    latents = continuous.encode(x)
    (grid,) = latents.to_grids()
    mean = distribution.mode()
    torch.testing.assert_close(mean, grid.squeeze(2) if len(shape) == 4 else grid)
    torch.testing.assert_close(vae.decode(mean).sample, continuous.decode(latents), atol=1e-5, rtol=1e-5)
    first, second = (distribution.sample(torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(distribution.std.square(), distribution.var)


def test_latents_are_normalized_by_the_statistics(ltx_v095):
    from smalti.tokenizers.importers import find_family

    tokenizer = find_family("ltx").build(ltx_v095.config).requires_grad_(False)
    tokenizer.decoder.statistics.mean.copy_(torch.linspace(-1, 1, len(tokenizer.decoder.statistics.mean)))
    tokenizer.decoder.statistics.std.fill_(2)
    vae = Autoencoder(tokenizer)
    z = torch.randn(1, vae.config.latent_channels, 2, 1, 1)
    torch.testing.assert_close(vae.normalize(z), tokenizer.decoder.statistics.normalize(z))
    torch.testing.assert_close(vae.denormalize(vae.normalize(z)), z)
    assert vae.scaling_factor == 1.0


def test_statistics_of_the_bottleneck_normalize_real_latents(small, photo):
    tokenizer = small(KL(4, statistics=True))
    with torch.no_grad():
        z = tokenizer.encode(photo).z[0]
    tokenizer.bottleneck.statistics.mean.copy_(z.mean(0))
    tokenizer.bottleneck.statistics.std.copy_(z.std(0, unbiased=False))
    vae = Autoencoder(tokenizer)
    mean = vae.encode(photo).latent_dist.mode().detach()
    normalized = vae.normalize(mean)
    torch.testing.assert_close(normalized.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalized.std((0, 2, 3), unbiased=False), torch.ones(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.denormalize(normalized), mean)


@pytest.mark.parametrize("name", ["sd", "flux1", "wan21"])
def test_an_autoencoder_of_diffusers_has_the_factors_of_its_class(name, tmp_path, photo):
    pytest.importorskip("diffusers")
    models = runpy.run_path(str(Path(__file__).parents[1] / "diffusers_models.py"))
    model, vae = models["build"](name), Autoencoder(smalti.load(models["write"](name, tmp_path)))
    config = model.config
    x = photo if name != "wan21" else photo.unsqueeze(2)
    with torch.no_grad():
        z = model.encode(x).latent_dist.mode()
        torch.testing.assert_close(vae.encode(x).latent_dist.mode(), z, atol=1e-5, rtol=1e-5)
    if name == "wan21":
        shape = (-1, 1, 1, 1)
        expected = (z - z.new_tensor(config.latents_mean).view(shape)) / z.new_tensor(config.latents_std).view(shape)
    else:
        expected = (z - (config.get("shift_factor") or 0.0)) * config.scaling_factor
        assert vae.scaling_factor == config.scaling_factor
    torch.testing.assert_close(vae.normalize(z), expected)
    torch.testing.assert_close(vae.denormalize(expected), z)


def test_what_cannot_be_an_autoencoder_is_one_sentence(tokenizer, small):
    with pytest.raises(SmaltiError, match="has no continuous branch"):
        Autoencoder(small())
    with pytest.raises(SmaltiError, match="takes sizes that its stride"):
        Autoencoder(tokenizer).encode(torch.zeros(1, 3, 9, 8))
    first = onevae(KL(4), stride=(2, 4, 4), channels=4, blocks=1, first_frame=True)
    with pytest.raises(SmaltiError, match="a grid of its own"):
        Autoencoder(first)
