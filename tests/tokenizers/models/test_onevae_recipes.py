"""The recipes of OneVAE's models are the released networks, name by name and shape by shape."""

from pathlib import Path

import pytest
import torch
import yaml

from smalti.tokenizers.configurable import from_config
from smalti.tokenizers.importers import onevae

RECIPES = Path(__file__).parents[2] / "configs" / "onevae"
RELEASED = {"8x8x8": "888_33_mt2", "8x16x16": "81616_33_mt2_fe", "16x16x16": "161616_33_mt2_fe"}


def tokenizer_of(name):
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["model"]["tokenizer"]

    def placed(part):  # the recipes' short names, as a configuration has them
        short = part["class_path"].rpartition(".")[2]
        modules = {"Tokenizer": "tokenizer", "OneVAEEncoder": "onevae", "OneVAEDecoder": "onevae"}
        module = modules.get(short, f"bottlenecks.{short.lower()}")
        arguments = {k: placed(v) if isinstance(v, dict) else v for k, v in part.get("init_args", {}).items()}
        return {"class_path": f"smalti.tokenizers.{module}.{short}", "init_args": arguments}

    with torch.device("meta"):
        return from_config(placed(recipe))


@pytest.mark.parametrize("name", RELEASED)
def test_a_recipe_is_the_released_network(name, manifests):
    tokenizer = tokenizer_of(name)
    ours = {onevae.to_published_key(key): list(tensor.shape) for key, tensor in tokenizer.state_dict().items()}
    released = manifests[f"OneVAE_64000_FSQ_{RELEASED[name]}"]["state_dict"]
    assert ours == {key: shape for key, shape in released.items() if key in ours}
    assert len(ours) == sum(not key.startswith(onevae.FAMILY.ignored_prefixes) for key in released)
    assert "x".join(map(str, tokenizer.encoder.stride)) == name


def test_wan_is_the_released_network():
    tokenizer = tokenizer_of("4x8x8")
    assert round(sum(p.numel() for p in tokenizer.parameters()) / 1e6, 1) == 126.9
    assert tokenizer.encoder.stride == (4, 8, 8)
