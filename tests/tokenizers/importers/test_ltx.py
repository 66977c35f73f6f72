"""LTX-Video's models in the format of their publisher, and the recipes of the same networks."""

import pytest
import torch

from smalti.cli.build_tokenizer import build_tokenizer
from smalti.errors import SmaltiError
from smalti.tokenizers.configurable import get_config
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.importers.ltx import to_published_key


def test_the_full_size_model_matches_the_manifest(manifests):
    manifest = manifests["ltx_v090"]
    state_dict = {name: torch.empty(shape, device="meta") for name, shape in manifest["state_dict"].items()}
    tokenizer = from_published("ltx", manifest["config"], state_dict)
    assert sum(p.numel() for p in tokenizer.parameters()) == manifest["parameters"]
    names = [name for name in tokenizer.state_dict() if not name.startswith("decoder.statistics.")]
    assert {to_published_key(name) for name in names} == set(manifest["state_dict"])


def build_recipe(name):
    """Return the tokenizer of a recipe on the meta device."""
    with torch.device("meta"):
        return build_tokenizer(f"ltx/{name}.yaml")


def test_recipes_build_the_released_models(ltx_release):
    with torch.device("meta"):
        model, config = ltx_release.build_model()
    recipe, released = build_recipe(ltx_release.recipe), from_published("diffusers", config, model.state_dict())
    shapes = {name: weight.shape for name, weight in recipe.state_dict().items()}
    assert shapes == {name: weight.shape for name, weight in released.state_dict().items()}
    assert get_config(recipe.bottleneck) == get_config(released.bottleneck)
    for attribute in ("timestep", "noise", "training_noise", "generative"):
        assert getattr(recipe.decoder, attribute) == getattr(released.decoder, attribute)


@pytest.mark.parametrize("name", ["fsq", "gq"])
def test_discrete_recipes_use_the_same_networks(name):
    tokenizer = build_recipe(name)
    assert tokenizer.compression_ratio == 192
    assert tokenizer.encoder.stride == (8, 32, 32)
    assert not tokenizer.decoder.generative


def test_a_file_of_the_whole_pipeline(ltx_v095):
    statistics = {
        "per_channel_statistics.mean-of-means": torch.arange(16.0),
        "per_channel_statistics.std-of-means": torch.full((16,), 2.0),
        "per_channel_statistics.mean-of-stds": torch.ones(16),
        "per_channel_statistics.mean-of-stds_over_std-of-means": torch.ones(16),
        "per_channel_statistics.channel": torch.arange(16.0),
    }
    vae = ltx_v095.state_dict | statistics
    pipeline = {f"vae.{name}": weight for name, weight in vae.items()}
    pipeline["model.diffusion_model.patchify_proj.weight"] = torch.zeros(2, 2)
    for config, state_dict in ((ltx_v095.config, vae), ({"vae": ltx_v095.config, "scheduler": {}}, pipeline)):
        decoder = from_published("ltx", config, state_dict).decoder
        assert torch.equal(decoder.statistics.mean, torch.arange(16.0))
        assert torch.equal(decoder.statistics.std, torch.full((16,), 2.0))
        assert (decoder.timestep, decoder.noise, decoder.training_noise) == (0.05, 0.025, [0.0, 0.2])
    # The weights of the VAE are checked strictly.
    with pytest.raises(SmaltiError, match=r"decoder\.extra.*unexpected"):
        from_published("ltx", ltx_v095.config, pipeline | {"vae.decoder.extra": torch.zeros(1)})
    del pipeline["vae.per_channel_statistics.std-of-means"]
    with pytest.raises(SmaltiError, match=r"std-of-means.*missing"):
        from_published("ltx", ltx_v095.config, pipeline)


def test_errors_name_the_key(ltx_v090):
    state_dict = dict(ltx_v090.state_dict)
    weight = state_dict.pop("decoder.up_blocks.2.conv.conv.weight")
    with pytest.raises(SmaltiError, match=r"up_blocks\.2\.conv\.conv\.weight.*missing"):
        from_published("ltx", ltx_v090.config, state_dict)
    with pytest.raises(SmaltiError, match=r"up_blocks\.2\.conv\.conv\.weight.*shape"):
        from_published("ltx", ltx_v090.config, state_dict | {"decoder.up_blocks.2.conv.conv.weight": weight[:4]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_layer": "group_norm"}, "norm_layer"),
        ({"use_quant_conv": True}, "use_quant_conv"),
        ({"latent_log_var": "constant"}, "latent_log_var"),
        ({"spatial_padding_mode": "reflect"}, "spatial_padding_mode"),
        ({"blocks": [["attn_res_x", 1]]}, "attn_res_x"),
        ({"blocks": 3}, "configuration"),
        ({"latent_channels": None}, "configuration"),
    ],
)
def test_configurations_of_other_models_are_refused(ltx_v090, change, message):
    with pytest.raises(SmaltiError, match=message):
        from_published("ltx", ltx_v090.config | change, ltx_v090.state_dict)
