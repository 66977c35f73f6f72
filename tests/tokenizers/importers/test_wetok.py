"""WeTok's released layout: the full-size models have all weights of the manifests."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.configurable import get_config
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.importers.wetok import to_published_key


@pytest.mark.parametrize(
    "name",
    [
        "wetok_ImageNet_downsample8_imagenet",
        "wetok_ImageNet_downsample16_imagenet",
        "wetok_GeneralDomain_compratio24_imagenet",
        "wetok_GeneralDomain_compratio48_imagenet",
        "wetok_GeneralDomain_compratio192_imagenet",
        "wetok_GeneralDomain_compratio768_imagenet",
        "uniwetok_ae_d16c32",
        "uniwetok_ae_d32c128",
        "uniwetok_ae_d32c256",
    ],
)
def test_full_size_models_match_the_manifests(manifests, name):
    manifest = manifests[name]
    config = manifest["config"]
    published = config | manifest  # the counts are in one of the two
    state_dict = {key: torch.empty(shape, device="meta") for key, shape in manifest["state_dict"].items()}
    tokenizer = from_published("wetok", config, state_dict)
    count = {part: sum(p.numel() for p in getattr(tokenizer, part).parameters()) for part in ("encoder", "decoder")}
    assert count == {"encoder": published["encoder_parameters"], "decoder": published["decoder_parameters"]}
    assert sum(count.values()) == manifest["parameters"]
    assert {to_published_key(name) for name in tokenizer.state_dict()} == set(manifest["state_dict"])
    assert tokenizer.quantizer.in_dim == config["ddconfig"]["z_channels"]
    assert tokenizer.quantizer.codebook_size == 256
    if "compratio" in name:
        assert tokenizer.compression_ratio == int(name.split("compratio")[1].split("_")[0])


def test_the_configuration_of_bitdance_needs_no_groups(vectors):
    published = vectors("uniwetok_bitdance")
    with_groups = published.config | {"n_embed": 256, "embed_dim": 128, "num_codebooks": 16}
    tokenizers = [from_published("wetok", c, published.state_dict) for c in (published.config, with_groups)]
    assert get_config(tokenizers[0]) == get_config(tokenizers[1])
    network = published.config["ddconfig"]
    with pytest.raises(SmaltiError, match="z_channels is 20"):
        from_published("wetok", {"ddconfig": network | {"z_channels": 20}}, published.state_dict)
    with pytest.raises(SmaltiError, match="no 'n_embed'"):
        from_published("wetok", published.config | {"embed_dim": 128}, published.state_dict)


def test_contradicting_configurations_are_refused(stage1):
    with pytest.raises(SmaltiError, match="n_embed"):
        from_published("wetok", stage1.config | {"n_embed": 15}, stage1.state_dict)
    with pytest.raises(SmaltiError, match="ddconfig"):
        from_published("wetok", {"n_embed": 16}, stage1.state_dict)
