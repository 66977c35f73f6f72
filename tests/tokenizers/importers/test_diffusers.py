"""LTX-Video's models in the format of diffusers: the same numbers, and the full-size models."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.importers import diffusers, from_published
from smalti.tokenizers.importers.ltx import to_published_key


def millions(module):
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 1)


def test_full_size_models_match_diffusers(ltx_release):
    with torch.device("meta"):
        model, config = ltx_release.build_model()
    tokenizer = from_published("diffusers", config, model.state_dict())
    assert set(diffusers.keys(tokenizer).values()) == model.state_dict().keys()
    assert (millions(tokenizer.encoder), millions(tokenizer.decoder)) == ltx_release.parameters
    # The publisher's block lists describe the same networks.
    published_config = {"latent_channels": 128, **ltx_release.published_config}
    state_dict = {to_published_key(name): weight for name, weight in tokenizer.state_dict().items()}
    again = from_published("ltx", published_config, state_dict)
    assert again.encoder.state_dict().keys() == tokenizer.encoder.state_dict().keys()
    assert (again.encoder.stride, tokenizer.encoder.stride) == ((8, 32, 32), (8, 32, 32))


def randomize(model):
    """Give every weight of a model a value that matters; biases start at 0 and scales at 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            elif parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))


def test_computes_the_same_as_diffusers(ltx_release, share_noise):
    torch.manual_seed(0)
    model, config = ltx_release.build_model(small=True)
    randomize(model)
    tokenizer = from_published("diffusers", config, model.state_dict()).double()
    model.double()
    tokenizer.decoder.noise = 0.0  # in diffusers, the pipeline adds this noise
    # Both compute in float64, but diffusers computes about 30 norms in float32, and embeds the timestep in float32, where
    # the sines of angles up to 50 have errors of 50 machine epsilons.
    eps = torch.finfo(torch.float32).eps
    bound = (32 + 2 * 50) * eps if config["timestep_conditioning"] else 32 * eps

    def assert_close(actual, expected):
        assert (actual - expected).abs().max() <= bound * expected.abs().max()

    noise = share_noise()
    x = torch.rand(2, 3, 9, 64, 64, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        posterior = model.encode(x).latent_dist
        (grid,) = tokenizer.encoder(x)
        assert_close(grid[:, :-1], posterior.mean)
        assert_close(grid[:, -1:].expand_as(posterior.logvar), posterior.logvar)
        timestep = torch.full((2,), tokenizer.decoder.timestep) if config["timestep_conditioning"] else None
        assert_close(tokenizer.decoder((posterior.mean,)), model.decode(posterior.mean, temb=timestep).sample)
    assert any(len(shape) == 2 for shape in noise) == (ltx_release.name == "0.9.1")


def test_classes_without_an_importer_are_refused(ltx_v090):
    for config in ({"_class_name": "VQModel"}, {}):
        with pytest.raises(SmaltiError, match="AutoencoderKLLTXVideo"):
            from_published("diffusers", config, ltx_v090.state_dict)
    with pytest.raises(SmaltiError, match="latent_channels"):
        from_published("diffusers", {"_class_name": "AutoencoderKLLTXVideo"}, ltx_v090.state_dict)
