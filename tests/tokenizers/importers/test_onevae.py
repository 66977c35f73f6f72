"""OneVAE's released layout: the numbers of the published code, and the full-size models.

The published numbers are float32. Smalti computes in float64 here, so the differences are only those of the published code,
and no id depends on the CPU.
"""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.importers import from_published

MODELS = ["onevae_888", "onevae_81616"]


def assert_close(actual, published):
    """Check the largest difference, relative to the largest value: about 40 float32 layers, 4 rounding errors each."""
    bound = 40 * 4 * torch.finfo(torch.float32).eps
    assert (actual - published).abs().max() <= bound * published.abs().max()


@pytest.fixture(scope="module", params=MODELS)
def published(request, vectors):
    published = vectors(request.param)
    return published, from_published("onevae", published.config, published.state_dict).double()


@pytest.fixture(scope="module")
def clip(published):
    return published[0]["input"].transpose(1, 2).double()


def test_latents_ids_and_both_reconstructions_match(published, clip):
    vectors, tokenizer = published
    names = [name for name in ("0", "1") if f"latent_{name}" in vectors.tensors]
    with torch.no_grad():
        means, tokens = tokenizer.as_continuous().encode(clip), tokenizer.tokenize(clip)
        for latent, name in zip(means.to_grids(), names, strict=True):
            assert_close(latent, vectors[f"latent_{name}"])
        ids = torch.cat([vectors[f"indices_{name}"].flatten(0, 2) for name in names])
        assert torch.equal(tokens.ids[0], ids)
        assert_close(tokenizer.detokenize(tokens).transpose(1, 2), vectors["reconstruction"])
        assert_close(tokenizer.as_continuous().decode(means).transpose(1, 2), vectors["reconstruction_continuous"])


@pytest.mark.parametrize("chunk", [4, 8, 16])
def test_reconstructions_match_in_chunks(published, clip, chunk):
    vectors, tokenizer = published
    with torch.no_grad():
        tokens = tokenizer.tokenize(clip, chunk)
        assert_close(tokenizer.detokenize(tokens, chunk=chunk).transpose(1, 2), vectors["reconstruction"])


@pytest.mark.parametrize("name", ["888_33_mt2", "81616_33_mt2_fe", "161616_33_mt2_fe"])
def test_full_size_models_match_the_manifests(manifests, name):
    manifest = manifests[f"OneVAE_64000_FSQ_{name}"]
    state_dict = {key: torch.empty(shape, device="meta") for key, shape in manifest["state_dict"].items()}
    tokenizer = from_published("onevae", manifest["config"], state_dict)
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


def test_errors_name_the_key(published):
    vectors, _ = published
    state_dict = dict(vectors.state_dict)
    del state_dict["quant_conv.weight"]
    with pytest.raises(SmaltiError, match=r"quant_conv\.weight"):
        from_published("onevae", vectors.config, state_dict)
    with pytest.raises(SmaltiError, match="unexpected value"):
        from_published("onevae", {**vectors.config, "levels": 3}, vectors.state_dict)
    with pytest.raises(SmaltiError, match="params"):
        from_published("onevae", {"arch": "vae888"}, vectors.state_dict)
