"""OneVAE's recipes describe the released networks: all weights have the same names and shapes."""

import pytest
import torch

from smalti.cli.build_tokenizer import build_tokenizer
from smalti.tokenizers.importers.onevae import FAMILY

RELEASED = {"8x8x8": "888_33_mt2", "8x16x16": "81616_33_mt2_fe", "16x16x16": "161616_33_mt2_fe"}


def build(name):
    with torch.device("meta"):
        return build_tokenizer(f"onevae/{name}.yaml")


@pytest.mark.parametrize("name", RELEASED)
def test_a_recipe_describes_the_released_network(name, manifests):
    tokenizer = build(name)
    keys = FAMILY.keys(tokenizer)
    ours = {keys[name]: list(weight.shape) for name, weight in tokenizer.state_dict().items()}
    released = manifests[f"OneVAE_64000_FSQ_{RELEASED[name]}"]["state_dict"]
    assert ours == {key: shape for key, shape in released.items() if key in ours}
    assert len(ours) == sum(not key.startswith(FAMILY.ignored_prefixes) for key in released)
    assert "x".join(map(str, tokenizer.encoder.stride)) == name


def test_the_wan_recipe_describes_the_released_network():
    tokenizer = build("4x8x8")
    assert round(sum(p.numel() for p in tokenizer.parameters()) / 1e6, 1) == 126.9
    assert tokenizer.encoder.stride == (4, 8, 8)
