"""Continuous tokenizers have the interface of diffusers' autoencoders."""

import pytest
import torch

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


def test_what_cannot_be_an_autoencoder_is_one_sentence(tokenizer, small):
    with pytest.raises(SmaltiError, match="has no continuous branch"):
        Autoencoder(small())
    with pytest.raises(SmaltiError, match="takes sizes that its stride"):
        Autoencoder(tokenizer).encode(torch.zeros(1, 3, 9, 8))
    first = onevae(KL(4), stride=(2, 4, 4), channels=4, blocks=1, first_frame=True)
    with pytest.raises(SmaltiError, match="a grid of its own"):
        Autoencoder(first)
