"""What is written for diffusers loads there, computes the same, and comes back as it was."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

import smalti
from smalti.__main__ import main
from smalti.errors import SmaltiError
from smalti.export.diffusers import to_diffusers
from smalti.tokenizers import LTXDecoder, LTXEncoder, OneVAEDecoder, OneVAEEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import FSQ, KL
from smalti.tokenizers.checkpoints import read_safetensors, save
from smalti.tokenizers.configurable import from_config, get_config
from smalti.tokenizers.importers import from_published

RECIPES = Path(__file__).parents[2] / "configs"
BLOCKS = [["res_x", {}], ["compress_all", {}], ["res_x", {}]]


def recipe(name):
    tokenizer = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["model"]["tokenizer"]
    return tokenizer | {"class_path": "smalti.tokenizers.tokenizer.Tokenizer"}


def narrow(name):
    """The tokenizer of a recipe with few channels and layers, and everything away from where it starts."""
    described = recipe(name)
    arguments = {part: value["init_args"] for part, value in described["init_args"].items()}
    arguments["encoder"]["out_dim"], arguments["bottleneck"]["dim"], arguments["decoder"]["in_dim"] = 7, 6, 6
    for part in ("encoder", "decoder"):
        arguments[part]["channels"] = 8
        for _, options in arguments[part]["blocks"]:
            if "num_layers" in options:
                options["num_layers"] = 1 + options["num_layers"] % 2
    torch.manual_seed(0)
    tokenizer = from_config(described)
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            if parameter.ndim != 5:
                parameter.add_(0.1 * torch.randn_like(parameter))
        tokenizer.decoder.statistics.mean.normal_()
        tokenizer.decoder.statistics.std.uniform_(0.5, 2)
    return tokenizer.eval()


def relative(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


def exported(tokenizer, folder, *options):
    save(tokenizer, folder / "ours")
    assert main(["export", str(folder / "ours"), "--format", "diffusers", "-o", str(folder / "theirs"), *options]) == 0
    return folder / "theirs"


def imported(folder):
    weights = read_safetensors(folder / "diffusion_pytorch_model.safetensors")
    return from_published("diffusers", json.loads((folder / "config.json").read_text()), weights)


def assert_equal(again, tokenizer):
    assert again.state_dict().keys() == tokenizer.state_dict().keys()
    assert all(torch.equal(weight, tokenizer.state_dict()[name]) for name, weight in again.state_dict().items())


@pytest.mark.parametrize("name", ["v090", "v091", "v095"])
def test_ltx_loads_in_diffusers_and_computes_the_same(name, tmp_path, monkeypatch):
    diffusers = pytest.importorskip("diffusers")
    tokenizer = narrow(f"ltx/{name}")
    folder = exported(tokenizer, tmp_path)
    assert_equal(imported(folder), tokenizer)
    model, notes = diffusers.AutoencoderKLLTXVideo.from_pretrained(folder, output_loading_info=True)
    assert not any(notes.values())
    assert (model.spatial_compression_ratio, model.temporal_compression_ratio) == (32, 8)
    assert torch.equal(model.latents_mean, tokenizer.decoder.statistics.mean)
    assert torch.equal(model.latents_std, tokenizer.decoder.statistics.std)
    tokenizer.decoder.noise = 0.0  # there, the pipeline mixes noise in, not the network
    # One map for each size of noise, for both sides.
    maps, draw = {}, torch.randn
    monkeypatch.setattr(torch, "randn", lambda shape, **_: maps.setdefault(tuple(shape), draw(shape)))
    x = torch.rand(1, 3, 9, 64, 32) * 2 - 1
    with torch.no_grad():
        latents = tokenizer.encode(x)
        theirs = model.encode(x).latent_dist.mean
        assert relative(latents.to_grids()[0], theirs) < 1e-5
        time = torch.tensor([tokenizer.decoder.timestep]) if model.config.timestep_conditioning else None
        pixels = model.decode(theirs, temb=time).sample
        assert relative(tokenizer.decode(latents), pixels) < 1e-5
    assert bool([shape for shape in maps if len(shape) == 2]) == (name == "v091")


@pytest.mark.parametrize("name", ["v090", "v091", "v095"])
def test_full_size_models_have_every_key_and_shape(name):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        ours = to_diffusers(from_config(recipe(f"ltx/{name}")))
        model = diffusers.AutoencoderKLLTXVideo.from_config(ours.config)
    theirs = {key: weight.shape for key, weight in model.state_dict().items()}
    assert {key: weight.shape for key, weight in ours.weights.items()} == theirs


def test_a_decoder_that_does_not_look_ahead_says_so(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    tokenizer = Tokenizer(
        LTXEncoder(7, 4, BLOCKS), KL(6, shared_log_variance=True), LTXDecoder(6, 4, BLOCKS, causal=True)
    ).eval()
    model = diffusers.AutoencoderKLLTXVideo.from_pretrained(exported(tokenizer, tmp_path))
    z = torch.randn(1, 6, 3, 2, 2)
    with torch.no_grad():
        assert relative(tokenizer.decoder((z,)), model.decode(z).sample) < 1e-5


@pytest.mark.parametrize("times", [[1, 2, 2], [2, 2, 1]])
def test_wan_loads_in_diffusers_and_computes_the_same(times, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    shape = {"channels": 8, "multipliers": [1, 2, 2, 2], "strides": [[t, 2] for t in times], "blocks": 1}
    tokenizer = Tokenizer(OneVAEEncoder(12, **shape), KL(6), OneVAEDecoder(6, **shape)).eval()
    folder = exported(tokenizer, tmp_path)
    assert_equal(imported(folder), tokenizer)
    model, notes = diffusers.AutoencoderKLWan.from_pretrained(folder, output_loading_info=True)
    assert not any(notes.values())
    assert (model.config.latents_mean, model.config.latents_std) == ([0.0] * 6, [1.0] * 6)
    x = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = tokenizer.encode(x)
        theirs = model.encode(x).latent_dist.mean
        assert relative(latents.to_grids()[0], theirs) < 1e-5
        assert relative(tokenizer.decode(latents).clamp(-1, 1), model.decode(theirs).sample) < 1e-5


def test_one_path_of_a_joint_tokenizer(tmp_path):
    described = recipe("onevae/8x8x8")
    for part in ("encoder", "decoder"):
        described["init_args"][part]["init_args"]["channels"] = 4
    tokenizer = from_config(described)
    with pytest.raises(SmaltiError, match="Joint"):
        to_diffusers(tokenizer)
    folder = exported(tokenizer, tmp_path, "--as", "continuous")
    assert_equal(imported(folder), tokenizer.as_continuous())


def ltx(down=BLOCKS, up=BLOCKS, bottleneck=None, padding="zeros", patch=4, **options):
    bottleneck = bottleneck or KL(6, shared_log_variance=True)
    encoder = LTXEncoder(bottleneck.in_dim, 8, down, patch, padding)
    return Tokenizer(encoder, bottleneck, LTXDecoder(bottleneck.out_dim, 8, up, 4, padding=padding, **options))


def onevae(**options):
    shape = {"channels": 4, "multipliers": [1, 1], "strides": [[2, 2]], "blocks": 1, **options}
    return Tokenizer(OneVAEEncoder(4, **shape), KL(2), OneVAEDecoder(2, **shape))


WIDER = [["res_x", {}], ["compress_all", {}], ["res_x_y", {}], ["res_x", {}], ["res_x", {}]]
NOISY = [["res_x", {}], ["compress_all", {}], ["res_x_y", {"inject_noise": True}], ["res_x", {}], ["res_x", {}]]


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        (lambda: ltx(bottleneck=FSQ([5, 5, 5], 2)), "FSQ"),
        (lambda: ltx(bottleneck=KL(6)), "AutoencoderKLLTXVideo"),
        (lambda: ltx(padding="replicate"), "AutoencoderKLLTXVideo"),
        (lambda: ltx(patch=2), "AutoencoderKLLTXVideo"),
        (lambda: ltx(up=[["res_x", {}], ["compress_time", {}], ["res_x", {}]]), "AutoencoderKLLTXVideo"),
        (lambda: ltx(down=[["res_x", {}], ["compress_space", {}], ["res_x", {}]]), "AutoencoderKLLTXVideo"),
        (lambda: ltx(down=BLOCKS[:2]), "res_x"),
        (lambda: ltx(down=WIDER[:3] + WIDER[3:4]), "AutoencoderKLLTXVideo"),
        (lambda: ltx(up=NOISY), "AutoencoderKLLTXVideo"),
        (lambda: ltx(up=WIDER, timestep=0.05), "told the time"),
        (lambda: onevae(first_frame=True), "AutoencoderKLWan"),
        (lambda: onevae(strides=[[2, 1]]), "AutoencoderKLWan"),
    ],
)
def test_networks_that_diffusers_does_not_have_are_refused(tokenizer, words):
    with pytest.raises(SmaltiError, match=words) as error:
        to_diffusers(tokenizer())
    assert "LTX-Video" in str(error.value)  # what can be written


def test_other_families_are_refused_in_a_sentence(small, tmp_path, capsys):
    save(small(), tmp_path / "wetok")
    assert main(["export", str(tmp_path / "wetok"), "--format", "diffusers", "-o", str(tmp_path / "out")]) == 2
    assert "WeTokEncoder" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_unasked(tmp_path, capsys):
    first, second = ltx(), ltx(causal=True)
    folder = exported(first, tmp_path)
    save(second, tmp_path / "second")
    command = ["export", str(tmp_path / "second"), "--format", "diffusers", "-o"]
    assert main([*command, str(folder)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert_equal(imported(folder), first)
    assert main([*command, str(folder), "--overwrite"]) == 0
    assert_equal(imported(folder), second)
    assert imported(folder).decoder.conv_in.causal
    # Not even when asked, where something else is; an export of our own included.
    assert main([*command, str(tmp_path / "ours"), "--overwrite"]) == 2
    assert "no model of diffusers" in capsys.readouterr().err
    assert get_config(smalti.load(tmp_path / "ours")) == get_config(first)


def test_a_folder_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    folder = exported(ltx(), tmp_path)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("smalti.export.diffusers.save_file", full)
    command = ["export", str(tmp_path / "ours"), "--format", "diffusers", "-o", str(folder), "--overwrite"]
    assert main(command) == 2
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]


def test_where_it_came_from_is_remembered(tmp_path):
    tokenizer = ltx()
    save(tokenizer, tmp_path / "ours", provenance={"step": 7})
    assert main(["export", str(tmp_path / "ours"), "--format", "diffusers", "-o", str(tmp_path / "theirs")]) == 0
    with safe_open(tmp_path / "theirs" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["provenance"]) == {"step": 7}
