"""Wan2.1's VAE, under its publisher's keys and those of diffusers."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.importers.wan import to_published_key

SMALL = {"z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True]}


@pytest.fixture(scope="module")
def model():
    """A small AutoencoderKLWan of diffusers with random weights, in float64."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.AutoencoderKLWan(base_dim=8, **SMALL).eval().double()  # the weights are float32 numbers


def import_model(model, **changes):
    config = {**model.config, "_class_name": "AutoencoderKLWan", **changes}
    return from_published("diffusers", config, model.state_dict()).double()


def test_computes_the_same_as_diffusers(model):
    tokenizer = import_model(model)
    x = torch.rand(1, 3, 9, 24, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        mean = model.encode(x).latent_dist.mean
        latents = tokenizer.encode(x)
        torch.testing.assert_close(latents.to_grids()[0], mean, rtol=0, atol=1e-10)
        # diffusers clamps its output. It also upsamples in float32, once per level.
        pixels = tokenizer.decode(latents).clamp(-1, 1)
        atol = 2 * 16 * torch.finfo(torch.float32).eps
        torch.testing.assert_close(pixels, model.decode(mean).sample, rtol=0, atol=atol)


def test_the_publishers_keys_and_those_of_diffusers_give_one_model(model):
    tokenizer = import_model(model)
    published = {to_published_key(name): tensor for name, tensor in tokenizer.state_dict().items()}
    assert {"encoder.conv1.weight", "encoder.downsamples.0.residual.2.weight", "conv2.bias"} <= published.keys()
    again = from_published("wan", {"dim": 8, **SMALL}, published).double()
    assert again.state_dict().keys() == tokenizer.state_dict().keys()
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in tokenizer.state_dict().items())


def test_the_released_model_has_its_number_of_parameters():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        state_dict = diffusers.AutoencoderKLWan().state_dict()
    config = {"_class_name": "AutoencoderKLWan", "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    tokenizer = from_published("diffusers", {**config, "temperal_downsample": [False, True, True]}, state_dict)
    assert round(sum(p.numel() for p in tokenizer.parameters()) / 1e6, 1) == 126.9


def test_wan_2_2_is_refused(model):
    with pytest.raises(SmaltiError, match=r"2\.2"):
        import_model(model, is_residual=True)
