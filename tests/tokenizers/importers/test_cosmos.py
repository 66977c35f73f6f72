"""Cosmos' released layout: the full-size models have the published numbers of weights; imports are strict."""

import pytest
import torch
from torch import nn

import smalti
from smalti.__main__ import main
from smalti.errors import SmaltiError
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.importers.cosmos import build, keys, unused_keys

IMAGES = {"patch_size": 2}
RELEASED = {
    "CI8x8": ({"name": "CI", "spatial_compression": 8, **IMAGES}, 33_471_888, 81_384_636),
    "CI16x16": ({"name": "CI", "spatial_compression": 16, **IMAGES}, 35_831_696, 84_334_524),
    "DI8x8": ({"name": "DI", "spatial_compression": 8, **IMAGES}, 34_578_048, 83_599_506),
    "DI16x16": ({"name": "DI", "spatial_compression": 16, **IMAGES}, 36_937_856, 86_549_394),
    "DV4x8x8": (
        {"name": "DV", "spatial_compression": 8, "temporal_compression": 4, "patch_size": 2, "z_channels": 256},
        46_645_760, 112_619_766,
    ),
    "DV8x16x16": ({"name": "DV", "spatial_compression": 16, "temporal_compression": 8}, 45_537_056, 110_898_294),
    "CV4x8x8": (
        {"name": "CausalCV", "spatial_compression": 8, "temporal_compression": 4, "patch_size": 2}, 45_343_520, 110_208_816,
    ),
    "CV8x8x8": ({"name": "CV", "spatial_compression": 8, "temporal_compression": 8}, 42_914_592, 105_653_696),
}  # fmt: skip
"""Configuration, weights of the encoder without its last convolution, and of the whole model."""

SMALL = {"channels": 32, "channels_mult": [1, 1], "num_res_blocks": 1}
TINY = {
    "image": {**SMALL, "name": "DI", "spatial_compression": 8, "z_channels": 8},
    "clip": {**SMALL, "name": "DV", "spatial_compression": 8, "temporal_compression": 4, "channels": 8},
}


def publish(config):
    """Return a random tokenizer, and what its publisher would store, with what the network does not use."""
    torch.manual_seed(0)
    tokenizer = build(config).eval()
    state_dict = {key: tokenizer.state_dict()[name] for name, key in keys(tokenizer).items()}
    return tokenizer, state_dict | {key: torch.ones(2) for key in unused_keys(tokenizer)}


@pytest.mark.parametrize("name", RELEASED)
def test_full_size_models_have_the_published_numbers_of_weights(name):
    config, encoder, total = RELEASED[name]
    with torch.device("meta"):
        tokenizer = build(config)
    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in tokenizer.encoder.named_children()}
    assert sum(counts.values()) - counts["head"] == encoder
    assert sum(p.numel() for p in tokenizer.parameters()) == total


@pytest.mark.parametrize("kind", TINY)
def test_every_weight_is_needed_and_none_may_be_added(kind):
    config = TINY[kind]
    tokenizer, published = publish(config)
    imported = from_published("cosmos", config, published)
    assert all(torch.equal(weight, imported.state_dict()[name]) for name, weight in tokenizer.state_dict().items())
    for key in ("quant_conv", "decoder.conv_in", "encoder.down.0.block.0.norm1"):
        name = next(k for k in published if k.startswith(key) and k.endswith("weight"))
        with pytest.raises(SmaltiError, match=f"Key '{name}' is missing"):
            from_published("cosmos", config, {k: w for k, w in published.items() if k != name})
        with pytest.raises(SmaltiError, match=f"Key '{name}' has shape"):
            from_published("cosmos", config, published | {name: published[name][:-1]})
    with pytest.raises(SmaltiError, match=r"'encoder\.extra' is unexpected"):
        from_published("cosmos", config, published | {"encoder.extra": torch.ones(1)})
    with pytest.raises(SmaltiError, match="has shape"):
        from_published(
            "cosmos", config | {"patch_size": 2, "spatial_compression": 4, "temporal_compression": 2}, published
        )


def test_convolutions_that_the_publisher_never_calls_are_known():
    """8x8x8: one level of three has three such convolutions in each network, under these keys."""
    with torch.device("meta"):
        tokenizer = build(RELEASED["CV8x8x8"][0])
    convolutions = sorted(k.removesuffix(".conv3d.weight") for k in unused_keys(tokenizer) if k.endswith("weight"))
    expected = ["decoder.up.2.upsample.conv", "encoder.down.1.downsample.conv"]
    assert convolutions == [f"{prefix}{i}" for prefix in expected for i in (1, 2, 3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "XV"}, "name is 'XV'"),
        ({"spatial_compression": None}, "unexpected value"),
        ({"name": "DV"}, "no 'temporal_compression'"),
        ({"name": "DV", "temporal_compression": 1}, "temporal_compression is 1"),
        ({"formulation": "VAE"}, "formulation is 'VAE'"),
        ({"channels_mult": [2, 4, 4, 4, 4]}, "attention in a level"),
        ({"embedding_dim": 5}, "embedding_dim is 5"),
    ],
)
def test_other_configurations_are_refused(changes, message):
    with torch.device("meta"), pytest.raises(SmaltiError, match=message) as error:
        build(RELEASED["DI8x8"][0] | changes)
    assert "\n" not in str(error.value)


class Published(nn.Module):
    """A module with the published keys, and no function."""

    def __init__(self, weights):
        super().__init__()
        for key, weight in weights.items():
            *path, name = key.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_buffer(name, weight)

    def forward(self, x):
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", TINY)
def test_the_command_reads_torchscript(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    tokenizer, published = publish(TINY[kind])
    half = {key: weight.bfloat16() for key, weight in published.items()}  # as released
    torch.jit.trace(Published(half), torch.zeros(1)).save("autoencoder.jit")
    (tmp_path / "config.yaml").write_text("\n".join(f"{name}: {value}" for name, value in TINY[kind].items()))
    assert main(["import", "cosmos", "autoencoder.jit", "--config", "config.yaml", "--out", "imported"]) == 0
    imported = smalti.load("imported")
    x = torch.rand(1, 3, 9, 16, 24) * 2 - 1
    tokenizer.load_state_dict({name: w.bfloat16().float() for name, w in tokenizer.state_dict().items()})
    assert torch.equal(imported.tokenize(x).ids, tokenizer.tokenize(x).ids)

    del half[next(key for key in half if key.startswith("post_quant_conv"))]
    torch.jit.trace(Published(half), torch.zeros(1)).save("incomplete.jit")
    (tmp_path / "damaged.jit").write_bytes((tmp_path / "autoencoder.jit").read_bytes()[:2000])
    for file, message in {"incomplete.jit": "post_quant_conv", "damaged.jit": "damaged"}.items():
        capsys.readouterr()
        assert main(["import", "cosmos", file, "--config", "config.yaml", "--out", "x"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
    assert not (tmp_path / "x").exists()
