"""Exported models load in diffusers, compute the same there, and are unchanged when they are imported again."""

import json

import pytest
import torch
from safetensors import safe_open

import smalti
from smalti.__main__ import main
from smalti.cli.build_tokenizer import build_tokenizer
from smalti.errors import SmaltiError
from smalti.export.diffusers import to_diffusers
from smalti.tokenizers import LTXDecoder, LTXEncoder, OneVAEDecoder, OneVAEEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import FSQ, KL
from smalti.tokenizers.checkpoints import save
from smalti.tokenizers.configurable import from_config, get_config
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.weight_files import read_safetensors

BLOCKS = [["res_x", {}], ["compress_all", {}], ["res_x", {}]]
EPS = torch.finfo(torch.float32).eps
BOUND = 32 * EPS
"""Bound for tests in float64. diffusers computes about 30 norms and a few upsamplings in float32."""


def tokenizer_config(name):
    with torch.device("meta"):
        return get_config(build_tokenizer(f"{name}.yaml"))


def build_narrow(name):
    """Return the tokenizer of a recipe with few channels and layers, and every weight away from its initial value."""
    config = tokenizer_config(name)
    arguments = {part: value["init_args"] for part, value in config["init_args"].items()}
    arguments["encoder"]["out_dim"], arguments["bottleneck"]["dim"], arguments["decoder"]["in_dim"] = 7, 6, 6
    for part in ("encoder", "decoder"):
        arguments[part]["channels"] = 8
        for _, options in arguments[part]["blocks"]:
            if "num_layers" in options:
                options["num_layers"] = 1 + options["num_layers"] % 2
    torch.manual_seed(0)
    tokenizer = from_config(config)
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            if parameter.ndim != 5:
                parameter.add_(0.1 * torch.randn_like(parameter))
        tokenizer.decoder.statistics.mean.normal_()
        tokenizer.decoder.statistics.std.uniform_(0.5, 2)
    return tokenizer.eval()


def assert_close(actual, expected, bound=BOUND):
    assert (actual - expected).abs().max() <= bound * expected.abs().max()


def export(tokenizer, folder, *options):
    """Export a tokenizer with the command, and return the folder that diffusers loads."""
    save(tokenizer, folder / "smalti")
    command = ["export", str(folder / "smalti"), "--format", "diffusers", "-o", str(folder / "diffusers")]
    assert main([*command, *options]) == 0
    return folder / "diffusers"


def import_folder(folder):
    weights = read_safetensors(folder / "diffusion_pytorch_model.safetensors")
    return from_published("diffusers", json.loads((folder / "config.json").read_text()), weights)


def assert_same_weights(actual, expected):
    assert actual.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(weight, expected.state_dict()[name]) for name, weight in actual.state_dict().items())


def load_in_diffusers(class_name, folder):
    """Load a folder with diffusers, which must find every weight and no other."""
    cls = getattr(pytest.importorskip("diffusers"), class_name)
    model, report = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    return model.eval()


@pytest.mark.parametrize("name", ["v090", "v091", "v095"])
def test_ltx_loads_in_diffusers_and_computes_the_same(name, tmp_path, share_noise):
    tokenizer = build_narrow(f"ltx/{name}")
    folder = export(tokenizer, tmp_path)
    assert_same_weights(import_folder(folder), tokenizer)
    model = load_in_diffusers("AutoencoderKLLTXVideo", folder)
    assert (model.spatial_compression_ratio, model.temporal_compression_ratio) == (32, 8)
    assert torch.equal(model.latents_mean, tokenizer.decoder.statistics.mean)
    assert torch.equal(model.latents_std, tokenizer.decoder.statistics.std)

    tokenizer.double()
    model.double()
    tokenizer.decoder.noise = 0.0  # in diffusers, the pipeline adds this noise
    noise = share_noise()
    x = torch.rand(1, 3, 9, 64, 32, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        latents = tokenizer.encode(x)
        mean = model.encode(x).latent_dist.mean
        assert_close(latents.to_grids()[0], mean)
        conditioned = model.config.timestep_conditioning
        timestep = torch.tensor([tokenizer.decoder.timestep]) if conditioned else None
        pixels = model.decode(mean, temb=timestep).sample
        # diffusers computes the sines of angles up to 50, from the timestep, in float32.
        assert_close(tokenizer.decode(latents), pixels, BOUND + 2 * 50 * EPS if conditioned else BOUND)
    assert any(len(shape) == 2 for shape in noise) == (name == "v091")


@pytest.mark.parametrize("name", ["v090", "v091", "v095"])
def test_full_size_models_have_all_keys_and_shapes(name):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        exported = to_diffusers(from_config(tokenizer_config(f"ltx/{name}")))
        model = diffusers.AutoencoderKLLTXVideo.from_config(exported.config)
    expected = {key: weight.shape for key, weight in model.state_dict().items()}
    assert {key: weight.shape for key, weight in exported.weights.items()} == expected


def test_a_causal_decoder_is_causal_in_diffusers(tmp_path):
    torch.manual_seed(0)
    tokenizer = Tokenizer(
        LTXEncoder(7, 4, BLOCKS), KL(6, shared_log_variance=True), LTXDecoder(6, 4, BLOCKS, causal=True)
    ).eval()
    model = load_in_diffusers("AutoencoderKLLTXVideo", export(tokenizer, tmp_path)).double()
    z = torch.randn(1, 6, 3, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        assert_close(tokenizer.double().decoder((z,)), model.decode(z).sample)


@pytest.mark.parametrize("times", [[1, 2, 2], [2, 2, 1]])
def test_wan_loads_in_diffusers_and_computes_the_same(times, tmp_path):
    torch.manual_seed(0)
    shape = {"channels": 8, "multipliers": [1, 2, 2, 2], "strides": [[t, 2] for t in times], "blocks": 1}
    tokenizer = Tokenizer(OneVAEEncoder(12, **shape), KL(6), OneVAEDecoder(6, **shape)).eval()
    folder = export(tokenizer, tmp_path)
    assert_same_weights(import_folder(folder), tokenizer)
    model = load_in_diffusers("AutoencoderKLWan", folder).double()
    assert (model.config.latents_mean, model.config.latents_std) == ([0.0] * 6, [1.0] * 6)
    tokenizer.double()
    x = torch.rand(1, 3, 9, 32, 32, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        latents = tokenizer.encode(x)
        mean = model.encode(x).latent_dist.mean
        assert_close(latents.to_grids()[0], mean)
        # diffusers clamps its output.
        assert_close(tokenizer.decode(latents).clamp(-1, 1), model.decode(mean).sample)


def test_measured_statistics_of_a_bottleneck_are_those_of_the_class(tmp_path):
    torch.manual_seed(0)
    shape = {"channels": 8, "multipliers": [1, 2, 2], "strides": [[1, 2], [2, 2]], "blocks": 1}
    tokenizer = Tokenizer(OneVAEEncoder(12, **shape), KL(6, statistics=True), OneVAEDecoder(6, **shape)).eval()
    tokenizer.bottleneck.statistics.mean.copy_(torch.arange(6) / 4)
    tokenizer.bottleneck.statistics.std.fill_(0.5)
    model = load_in_diffusers("AutoencoderKLWan", export(tokenizer, tmp_path))
    assert model.config.latents_mean == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
    assert model.config.latents_std == [0.5] * 6


def test_one_branch_of_a_joint_tokenizer_is_exported(tmp_path):
    config = tokenizer_config("onevae/8x8x8")
    for part in ("encoder", "decoder"):
        config["init_args"][part]["init_args"]["channels"] = 4
    tokenizer = from_config(config)
    with pytest.raises(SmaltiError, match="Joint"):
        to_diffusers(tokenizer)
    folder = export(tokenizer, tmp_path, "--as", "continuous")
    assert_same_weights(import_folder(folder), tokenizer.as_continuous())
    assert read_provenance(folder) == {"branch": "continuous"}


def build_ltx(down=BLOCKS, up=BLOCKS, bottleneck=None, padding="zeros", patch=4, **options):
    bottleneck = bottleneck or KL(6, shared_log_variance=True)
    encoder = LTXEncoder(bottleneck.in_dim, 8, down, patch, padding)
    return Tokenizer(encoder, bottleneck, LTXDecoder(bottleneck.out_dim, 8, up, 4, padding=padding, **options))


def build_onevae(**options):
    shape = {"channels": 4, "multipliers": [1, 1], "strides": [[2, 2]], "blocks": 1, **options}
    return Tokenizer(OneVAEEncoder(4, **shape), KL(2), OneVAEDecoder(2, **shape))


WIDER = [["res_x", {}], ["compress_all", {}], ["res_x_y", {}], ["res_x", {}], ["res_x", {}]]
NOISY = [["res_x", {}], ["compress_all", {}], ["res_x_y", {"inject_noise": True}], ["res_x", {}], ["res_x", {}]]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_ltx(bottleneck=FSQ([5, 5, 5], 2)), "FSQ"),
        (lambda: build_ltx(bottleneck=KL(6)), "AutoencoderKLLTXVideo"),
        (lambda: build_ltx(padding="replicate"), "AutoencoderKLLTXVideo"),
        (lambda: build_ltx(patch=2), "AutoencoderKLLTXVideo"),
        (lambda: build_ltx(up=[["res_x", {}], ["compress_time", {}], ["res_x", {}]]), "AutoencoderKLLTXVideo"),
        (lambda: build_ltx(down=[["res_x", {}], ["compress_space", {}], ["res_x", {}]]), "AutoencoderKLLTXVideo"),
        (lambda: build_ltx(down=BLOCKS[:2]), "res_x"),
        (lambda: build_ltx(down=WIDER[:3] + WIDER[3:4]), "AutoencoderKLLTXVideo"),
        (lambda: build_ltx(up=NOISY), "AutoencoderKLLTXVideo"),
        (lambda: build_ltx(up=WIDER, timestep=0.05), "not conditioned on the timestep"),
        (lambda: build_onevae(first_frame=True), "AutoencoderKLWan"),
        (lambda: build_onevae(strides=[[2, 1]]), "AutoencoderKLWan"),
    ],
)
def test_networks_that_diffusers_does_not_have_are_refused(build, message):
    with pytest.raises(SmaltiError, match=message) as error:
        to_diffusers(build())
    assert "LTX-Video" in str(error.value)  # what can be exported


def test_other_families_are_refused_in_one_sentence(small, tmp_path, capsys):
    save(small(), tmp_path / "wetok")
    assert main(["export", str(tmp_path / "wetok"), "--format", "diffusers", "-o", str(tmp_path / "out")]) == 2
    assert "WeTokEncoder" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_only_diffusers_models_are_overwritten_and_only_on_request(tmp_path, capsys):
    first, second = build_ltx(), build_ltx(causal=True)
    folder = export(first, tmp_path)
    save(second, tmp_path / "second")
    command = ["export", str(tmp_path / "second"), "--format", "diffusers", "-o"]
    assert main([*command, str(folder)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert_same_weights(import_folder(folder), first)
    assert main([*command, str(folder), "--overwrite"]) == 0
    assert_same_weights(import_folder(folder), second)
    assert import_folder(folder).decoder.conv_in.causal
    # Anything else is never overwritten, not even a folder that Smalti exported for itself.
    assert main([*command, str(tmp_path / "smalti"), "--overwrite"]) == 2
    assert "is not a diffusers model" in capsys.readouterr().err
    assert get_config(smalti.load(tmp_path / "smalti")) == get_config(first)


def test_a_failed_export_changes_nothing(tmp_path, monkeypatch):
    folder = export(build_ltx(), tmp_path)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("smalti.export.diffusers.save_file", fail)
    command = ["export", str(tmp_path / "smalti"), "--format", "diffusers", "-o", str(folder), "--overwrite"]
    assert main(command) == 2
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["diffusers", "smalti"]


def read_provenance(folder):
    with safe_open(folder / "diffusion_pytorch_model.safetensors", "pt") as file:
        return json.loads(file.metadata()["provenance"])


def test_provenance_is_written_to_the_metadata(tmp_path):
    # Version 0.1 called the branch of a joint tokenizer its path.
    save(build_ltx(), tmp_path / "smalti", provenance={"step": 7, "path": "continuous"})
    folder = tmp_path / "diffusers"
    assert main(["export", str(tmp_path / "smalti"), "--format", "diffusers", "-o", str(folder)]) == 0
    assert read_provenance(folder) == {"step": 7, "branch": "continuous"}
