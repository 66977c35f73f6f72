"""UniWeTok's released layout: all weights of the full-size model, and moving averages weight by weight."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.importers.family import lit_ema_key
from smalti.tokenizers.importers.uniwetok import to_published_key


@pytest.fixture(scope="module")
def hybrid(vectors):
    return vectors("uniwetok_hybrid")


def test_the_full_size_model_matches_the_manifest(manifests):
    """The widths are assumed: those of BitDance's tokenizer. The layout is that of the published code."""
    manifest = manifests["uniwetok_hybrid_d32c128_assumed"]
    state_dict = {key: torch.empty(shape, device="meta") for key, shape in manifest["state_dict"].items()}
    tokenizer = from_published("uniwetok", manifest["config"], state_dict)
    count = {part: sum(p.numel() for p in getattr(tokenizer, part).parameters()) for part in ("encoder", "decoder")}
    assert count == {"encoder": manifest["encoder_parameters"], "decoder": manifest["decoder_parameters"]}
    assert sum(count.values()) == manifest["parameters"]
    assert {to_published_key(name) for name in tokenizer.state_dict()} == set(manifest["state_dict"])
    assert (tokenizer.encoder.stride, tokenizer.compression_ratio) == ((1, 32, 32), 192)


def test_moving_averages_replace_weights_one_by_one(hybrid):
    averaged = ("decoder.conv_out.bias", "encoder.mid_attn_blocks.1.attention.wqkv.weight")
    averages = {lit_ema_key(key): hybrid.state_dict[key] + 1 for key in averaged}
    state = {"model_ema.decay": torch.tensor(0.999), "loss.discriminator.main.0.weight": torch.zeros(1)}
    tokenizer = from_published("uniwetok", hybrid.config, hybrid.state_dict | averages | state)
    for name, weight in tokenizer.state_dict().items():
        key = to_published_key(name)
        assert torch.equal(weight, hybrid.state_dict[key] + (key in averaged))
    with pytest.raises(SmaltiError, match=r"model_ema\.decoderconv_outbia.*unexpected"):
        from_published("uniwetok", hybrid.config, hybrid.state_dict | {"model_ema.decoderconv_outbia": torch.zeros(3)})


def test_a_model_without_attention_still_has_registers(hybrid):
    config = {"ddconfig": hybrid.config["ddconfig"] | {"attn_blocks": 0}}
    state_dict = {key: value for key, value in hybrid.state_dict.items() if "mid_attn_blocks" not in key}
    tokenizer = from_published("uniwetok", config, state_dict)
    assert torch.equal(tokenizer.encoder.attention.registers, state_dict["encoder.register_token.weight"])


def test_missing_and_unexpected_weights_are_one_sentence(hybrid):
    state_dict = dict(hybrid.state_dict)
    weight = state_dict.pop("encoder.register_token.weight")
    with pytest.raises(SmaltiError, match=r"'encoder\.register_token\.weight' is missing"):
        from_published("uniwetok", hybrid.config, state_dict)
    with pytest.raises(SmaltiError, match=r"'encoder\.mid_block\.0\.norm1\.weight' is unexpected"):
        from_published("uniwetok", hybrid.config, hybrid.state_dict | {"encoder.mid_block.0.norm1.weight": weight})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"double_z": True}, "double_z"),
        ({"in_channels": 4}, "in_channels"),
        ({"z_channels": 12}, "multiple of 8"),
        ({"n_heads": 3}, "attention_heads"),
        ({"attn_blocks": "two"}, "unexpected value"),
    ],
)
def test_configurations_of_other_models_are_refused(hybrid, change, message):
    with pytest.raises(SmaltiError, match=message):
        from_published("uniwetok", {"ddconfig": hybrid.config["ddconfig"] | change}, hybrid.state_dict)
    with pytest.raises(SmaltiError, match="ddconfig"):
        from_published("uniwetok", {}, hybrid.state_dict)
