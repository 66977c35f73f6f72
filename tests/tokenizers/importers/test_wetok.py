"""WeTok's released layout: the full-size models have all weights of the manifests."""

import pytest
import torch

from smalti.errors import SmaltiError
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
    ],
)
def test_full_size_models_match_the_manifests(manifests, name):
    manifest = manifests[name]
    config = manifest["config"]
    state_dict = {key: torch.empty(shape, device="meta") for key, shape in manifest["state_dict"].items()}
    tokenizer = from_published("wetok", config, state_dict)
    count = {part: sum(p.numel() for p in getattr(tokenizer, part).parameters()) for part in ("encoder", "decoder")}
    assert count == {"encoder": config["encoder_parameters"], "decoder": config["decoder_parameters"]}
    assert sum(count.values()) == manifest["parameters"]
    assert {to_published_key(name) for name in tokenizer.state_dict()} == set(manifest["state_dict"])
    if "compratio" in name:
        assert tokenizer.compression_ratio == int(name.split("compratio")[1].split("_")[0])


def test_contradicting_configurations_are_refused(stage1):
    with pytest.raises(SmaltiError, match="n_embed"):
        from_published("wetok", stage1.config | {"n_embed": 15}, stage1.state_dict)
    with pytest.raises(SmaltiError, match="ddconfig"):
        from_published("wetok", {"n_embed": 16}, stage1.state_dict)
