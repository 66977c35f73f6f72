"""OneVAE's and Wan2.1's released layout: the published function, the full-size models, and diffusers' same numbers."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.importers import from_published

MODELS = ["onevae_888", "onevae_81616"]
WAN = {"z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True]}


def close(ours, theirs):
    return (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max()


@pytest.fixture(scope="module", params=MODELS)
def published(request, vectors):
    published = vectors(request.param)
    return published, from_published("onevae", published.config, published.state_dict)


def test_latents_indices_and_both_reconstructions_are_the_published(published):
    vectors, tokenizer = published
    x = vectors["input"].transpose(1, 2)
    names = [name for name in ("0", "1") if f"latent_{name}" in vectors.tensors]
    with torch.no_grad():
        means, tokens = tokenizer.as_continuous().encode(x), tokenizer.tokenize(x)
        assert all(close(ours, vectors[f"latent_{n}"]) for ours, n in zip(means.to_grids(), names, strict=True))
        indices = torch.cat([vectors[f"indices_{name}"].flatten(0, 2) for name in names])
        assert torch.equal(tokens.ids[0], indices)
        assert close(tokenizer.detokenize(tokens).transpose(1, 2), vectors["reconstruction"])
        assert close(tokenizer.as_continuous().decode(means).transpose(1, 2), vectors["reconstruction_continuous"])


@pytest.mark.parametrize("chunk", [4, 8, 16])
def test_the_published_function_in_chunks(published, chunk):
    vectors, tokenizer = published
    with torch.no_grad():
        tokens = tokenizer.tokenize(vectors["input"].transpose(1, 2), chunk)
        assert close(tokenizer.detokenize(tokens, chunk=chunk).transpose(1, 2), vectors["reconstruction"])


@pytest.mark.parametrize("name", ["888_33_mt2", "81616_33_mt2_fe", "161616_33_mt2_fe"])
def test_the_full_size_models_take_every_weight(manifests, name):
    manifest = manifests[f"OneVAE_64000_FSQ_{name}"]
    state = {key: torch.empty(shape, device="meta") for key, shape in manifest["state_dict"].items()}
    tokenizer = from_published("onevae", manifest["config"], state)
    assert sum(p.numel() for p in tokenizer.parameters()) == manifest["parameters"]
    assert (tokenizer.quantizer.codebook_size, tokenizer.quantizer.tokens_per_position) == (64000, 2)
    with torch.device("meta"):
        grids = tuple(tuple(grid.shape[2:]) for grid in tokenizer.encoder(torch.empty(1, 3, 17, 256, 256)))
    assert (
        grids
        == {
            "888_33_mt2": ((3, 32, 32),),
            "81616_33_mt2_fe": ((1, 32, 32), (2, 16, 16)),
            "161616_33_mt2_fe": ((1, 32, 32), (1, 16, 16)),
        }[name]
    )


def test_a_missing_weight_is_named(published):
    vectors, _ = published
    state = dict(vectors.state_dict)
    del state["quant_conv.weight"]
    with pytest.raises(SmaltiError, match=r"quant_conv\.weight"):
        from_published("onevae", vectors.config, state)
    with pytest.raises(SmaltiError, match="something else"):
        from_published("onevae", {**vectors.config, "levels": 3}, vectors.state_dict)
    with pytest.raises(SmaltiError, match="params"):
        from_published("onevae", {"arch": "vae888"}, vectors.state_dict)


@pytest.fixture(scope="module")
def wan():
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=8, **WAN).eval()


def test_diffusers_wan_gives_the_same_numbers(wan):
    config = {**wan.config, "_class_name": "AutoencoderKLWan"}
    ours = from_published("diffusers", config, wan.state_dict())
    x = torch.rand(1, 3, 9, 24, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        theirs = wan.encode(x).latent_dist
        latents = ours.encode(x)
        assert close(latents.to_grids()[0], theirs.mean)
        # Theirs ends with a clamp, which is no part of what is trained.
        assert (ours.decode(latents).clamp(-1, 1) - wan.decode(theirs.mean).sample).abs().max() < 1e-5


def test_wan_by_its_publishers_keys_and_by_diffusers_are_one(wan):
    from smalti.tokenizers.importers.onevae import wan_key

    ours = from_published("diffusers", {**wan.config, "_class_name": "AutoencoderKLWan"}, wan.state_dict())
    published = {wan_key(name): tensor for name, tensor in ours.state_dict().items()}
    assert {"encoder.conv1.weight", "encoder.downsamples.0.residual.2.weight", "conv2.bias"} <= published.keys()
    again = from_published("wan", {"dim": 8, **WAN}, published)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_released_wan_counts_its_parameters():
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        state = AutoencoderKLWan().state_dict()
    config = {"_class_name": "AutoencoderKLWan", "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    tokenizer = from_published("diffusers", {**config, "temperal_downsample": [False, True, True]}, state)
    assert round(sum(p.numel() for p in tokenizer.parameters()) / 1e6, 1) == 126.9


def test_wan_2_2_is_refused(wan):
    with pytest.raises(SmaltiError, match=r"2\.2"):
        from_published(
            "diffusers", {**wan.config, "_class_name": "AutoencoderKLWan", "is_residual": True}, wan.state_dict()
        )
