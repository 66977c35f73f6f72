"""LTX-Video's published weights come in whole, from its publisher's files and from diffusers', or not at all."""

from pathlib import Path

import pytest
import torch
import yaml

from smalti.errors import SmaltiError
from smalti.tokenizers.configurable import from_config, get_config
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.importers.diffusers import ltx_keys
from smalti.tokenizers.importers.ltx import key

RECIPES = Path(__file__).parents[2] / "configs" / "ltx"

# What diffusers' config.json of each release says, where it differs from the class's defaults.
V090 = {
    "block_out_channels": (128, 256, 512, 512),
    "decoder_block_out_channels": (128, 256, 512, 512),
    "layers_per_block": (4, 3, 3, 3, 4),
    "decoder_layers_per_block": (4, 3, 3, 3, 4),
}
V091 = V090 | {
    "decoder_block_out_channels": (256, 512, 1024),
    "decoder_layers_per_block": (5, 6, 7, 8),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "decoder_inject_noise": (True, True, True, False),
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
}
V095 = V091 | {
    "block_out_channels": (128, 256, 512, 1024, 2048),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "layers_per_block": (4, 6, 6, 2, 2),
    "decoder_layers_per_block": (5, 5, 5, 5),
    "spatio_temporal_scaling": (True, True, True, True),
    "decoder_inject_noise": (False, False, False, False),
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
}
RELEASES = {"0.9.0": V090, "0.9.1": V091, "0.9.5": V095}
PARAMETERS = {"0.9.0": (180.4, 238.8), "0.9.1": (180.4, 754.6), "0.9.5": (694.1, 552.8)}

# The same networks as lists of the publisher's; 0.9.0's are the default.
RES = {"num_layers": 5, "inject_noise": False}
UP = ["compress_all", {"residual": True, "multiplier": 2}]
PUBLISHED = {
    "0.9.0": {},
    "0.9.1": {
        "timestep_conditioning": True,
        "decoder_blocks": [
            ["res_x", {"num_layers": 5, "inject_noise": True}],
            UP,
            ["res_x", {"num_layers": 6, "inject_noise": True}],
            UP,
            ["res_x", {"num_layers": 7, "inject_noise": True}],
            UP,
            ["res_x", {"num_layers": 8, "inject_noise": False}],
        ],
    },
    "0.9.5": {
        "timestep_conditioning": True,
        "encoder_blocks": [
            ["res_x", {"num_layers": 4}],
            ["compress_space_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 6}],
            ["compress_time_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 6}],
            ["compress_all_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 2}],
            ["compress_all_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 2}],
        ],
        "decoder_blocks": [["res_x", RES], UP, ["res_x", RES], UP, ["res_x", RES], UP, ["res_x", RES]],
    },
}


def diffusers_model(options):
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.AutoencoderKLLTXVideo(**options).eval()
    return model, {**model.config, "_class_name": "AutoencoderKLLTXVideo"}


def millions(module):
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 1)


def relative(ours, theirs):
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max())


def test_full_size_manifest(manifests):
    manifest = manifests["ltx_v090"]
    state = {name: torch.empty(shape, device="meta") for name, shape in manifest["state_dict"].items()}
    tokenizer = from_published("ltx", manifest["config"], state)
    assert sum(p.numel() for p in tokenizer.parameters()) == manifest["parameters"]
    networks = [name for name in tokenizer.state_dict() if not name.startswith("decoder.statistics.")]
    assert {key(name) for name in networks} == set(manifest["state_dict"])


@pytest.mark.parametrize("release", RELEASES)
def test_full_size_models_of_diffusers(release):
    with torch.device("meta"):
        model, config = diffusers_model(RELEASES[release])
    tokenizer = from_published("diffusers", config, model.state_dict())
    assert set(ltx_keys(tokenizer).values()) == model.state_dict().keys()
    assert (millions(tokenizer.encoder), millions(tokenizer.decoder)) == PARAMETERS[release]
    # The publisher's lists describe the same networks.
    published = {"latent_channels": 128, **PUBLISHED[release]}
    shapes = {key(name): weight for name, weight in tokenizer.state_dict().items()}
    again = from_published("ltx", published, shapes)
    assert again.encoder.state_dict().keys() == tokenizer.encoder.state_dict().keys()
    assert (again.encoder.stride, tokenizer.encoder.stride) == ((8, 32, 32), (8, 32, 32))


def recipe(name):
    """The tokenizer of a recipe, on the meta device."""
    model = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["model"]
    # The recipe names the class where people import it from, recipes of parts where it lives.
    tokenizer = model["tokenizer"] | {"class_path": "smalti.tokenizers.tokenizer.Tokenizer"}
    with torch.device("meta"):
        return from_config(tokenizer)


@pytest.mark.parametrize(("name", "release"), [("v090", "0.9.0"), ("v091", "0.9.1"), ("v095", "0.9.5")])
def test_recipes_are_the_published_models(name, release):
    with torch.device("meta"):
        model, config = diffusers_model(RELEASES[release])
    ours, theirs = recipe(name), from_published("diffusers", config, model.state_dict())
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert get_config(ours.bottleneck) == get_config(theirs.bottleneck)
    for part in ("timestep", "noise", "training_noise", "generative"):
        assert getattr(ours.decoder, part) == getattr(theirs.decoder, part)


@pytest.mark.parametrize("name", ["fsq", "gq"])
def test_discrete_recipes_stand_on_the_same_networks(name):
    tokenizer = recipe(name)
    assert tokenizer.compression_ratio == 192
    assert tokenizer.encoder.stride == (8, 32, 32)
    assert not tokenizer.decoder.generative


def small(release):
    """The release's networks, sixteen times narrower, with lists of layers that differ from place to place."""
    options = RELEASES[release]
    narrow = {
        name: tuple(n // 16 for n in options[name]) for name in ("block_out_channels", "decoder_block_out_channels")
    }
    decoder_layers = (2, 1, 1, 2, 1)[: len(options["decoder_layers_per_block"])]
    shape = {"latent_channels": 6, "layers_per_block": (1, 2, 1, 1, 2), "decoder_layers_per_block": decoder_layers}
    return {**options, **narrow, **shape}


@pytest.mark.parametrize("release", RELEASES)
def test_computes_what_diffusers_computes(release, monkeypatch):
    torch.manual_seed(0)
    model, config = diffusers_model(small(release))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            elif parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    tokenizer = from_published("diffusers", config, model.state_dict())
    tokenizer.decoder.noise = 0.0  # there, the pipeline mixes noise in, not the network
    # One map for each size of noise, for both sides.
    maps, draw = {}, torch.randn
    monkeypatch.setattr(torch, "randn", lambda shape, **_: maps.setdefault(tuple(shape), draw(shape)))
    x = torch.rand(2, 3, 9, 64, 64) * 2 - 1
    with torch.no_grad():
        posterior = model.encode(x).latent_dist
        (grid,) = tokenizer.encoder(x)
        assert relative(grid[:, :-1], posterior.mean) < 2e-5
        assert relative(grid[:, -1:].expand_as(posterior.logvar), posterior.logvar) < 2e-5
        time = torch.full((2,), tokenizer.decoder.timestep) if config["timestep_conditioning"] else None
        theirs = model.decode(posterior.mean, temb=time).sample
        assert relative(tokenizer.decoder((posterior.mean,)), theirs) < 2e-5
    assert bool([shape for shape in maps if len(shape) == 2]) == (release == "0.9.1")


def test_a_file_of_the_whole_pipeline(ltx_v095):
    statistics = {
        "per_channel_statistics.mean-of-means": torch.arange(16.0),
        "per_channel_statistics.std-of-means": torch.full((16,), 2.0),
        "per_channel_statistics.mean-of-stds": torch.ones(16),
        "per_channel_statistics.mean-of-stds_over_std-of-means": torch.ones(16),
        "per_channel_statistics.channel": torch.arange(16.0),
    }
    alone = ltx_v095.state_dict | statistics
    whole = {f"vae.{name}": weight for name, weight in alone.items()}
    whole["model.diffusion_model.patchify_proj.weight"] = torch.zeros(2, 2)
    for config, state in ((ltx_v095.config, alone), ({"vae": ltx_v095.config, "scheduler": {}}, whole)):
        decoder = from_published("ltx", config, state).decoder
        assert torch.equal(decoder.statistics.mean, torch.arange(16.0))
        assert torch.equal(decoder.statistics.std, torch.full((16,), 2.0))
        assert (decoder.timestep, decoder.noise, decoder.training_noise) == (0.05, 0.025, [0.0, 0.2])
    # Strict within the VAE.
    with pytest.raises(SmaltiError, match=r"decoder\.extra.*unexpected"):
        from_published("ltx", ltx_v095.config, whole | {"vae.decoder.extra": torch.zeros(1)})
    del whole["vae.per_channel_statistics.std-of-means"]
    with pytest.raises(SmaltiError, match=r"std-of-means.*missing"):
        from_published("ltx", ltx_v095.config, whole)


def test_faults_name_the_key(ltx_v090):
    state = dict(ltx_v090.state_dict)
    weight = state.pop("decoder.up_blocks.2.conv.conv.weight")
    with pytest.raises(SmaltiError, match=r"up_blocks\.2\.conv\.conv\.weight.*missing"):
        from_published("ltx", ltx_v090.config, state)
    with pytest.raises(SmaltiError, match=r"up_blocks\.2\.conv\.conv\.weight.*shape"):
        from_published("ltx", ltx_v090.config, state | {"decoder.up_blocks.2.conv.conv.weight": weight[:4]})


@pytest.mark.parametrize(
    ("change", "words"),
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
def test_configurations_of_other_models(ltx_v090, change, words):
    with pytest.raises(SmaltiError, match=words):
        from_published("ltx", ltx_v090.config | change, ltx_v090.state_dict)


def test_classes_of_diffusers_without_an_importer(ltx_v090):
    for config in ({"_class_name": "VQModel"}, {}):
        with pytest.raises(SmaltiError, match="AutoencoderKLLTXVideo"):
            from_published("diffusers", config, ltx_v090.state_dict)
    with pytest.raises(SmaltiError, match="latent_channels"):
        from_published("diffusers", {"_class_name": "AutoencoderKLLTXVideo"}, ltx_v090.state_dict)
