"""Autoencoders of diffusers give the outputs of their classes, for images and clips of any size, and go back unchanged."""

import copy
import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import smalti
from smalti.errors import SmaltiError
from smalti.export.diffusers import save_diffusers
from smalti.tokenizers.bottlenecks import FSQ, KL
from smalti.tokenizers.checkpoints import save
from smalti.tokenizers.layers.activation_checkpointing import enable_activation_checkpointing
from smalti.tokenizers.models.diffusers.families import full_config
from smalti.tokenizers.tokenizer import Tokenizer

TINY = runpy.run_path(str(Path(__file__).parents[2] / "diffusers_models.py"))
MODELS, IMAGE_MODELS, build, write = (TINY[name] for name in ("MODELS", "IMAGE_MODELS", "build", "write"))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Return a function that returns the model of diffusers and the tokenizer of a name."""
    folder, cache = tmp_path_factory.mktemp("models"), {}

    def load(name):
        if name not in cache:
            cache[name] = (build(name), smalti.load(write(name, folder / name)))
        return cache[name]

    return load


def run_class(model, x):
    """Return latents, pixels and ids (or None) of the class for x (B, 3, T, H, W) of an accepted size."""
    name = type(model).__name__
    is_image = name in ("AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderDC")
    x = x.squeeze(2) if is_image else x
    if name == "AutoencoderVidTok":
        x = torch.cat([x[:, :, :1].expand(-1, -1, model.temporal_compression_ratio - 1, -1, -1), x], dim=2)
    zs, ys, ids = [], [], None
    # The attention of HunyuanVideo 1.5 fails for two clips at once.
    for sample in x.split(1) if name == "AutoencoderKLHunyuanVideo15" else [x]:
        encoded = model.encode(sample)
        if isinstance(encoded, tuple):
            z, ids = encoded
        else:
            z = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        arguments = [torch.full((len(z),), 0.05)] if model.config.get("timestep_conditioning") else []
        y = model.decode(z, *arguments)
        zs.append(z)
        ys.append(y if isinstance(y, torch.Tensor) else y.sample)
    z, y = torch.cat(zs), torch.cat(ys)
    return (z.unsqueeze(2), y.unsqueeze(2), ids) if is_image else (z, y, ids)


@pytest.mark.parametrize("frames", [1, 9])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_outputs_are_those_of_the_class(loaded, name, frames):
    if name in IMAGE_MODELS and frames > 1:
        pytest.skip("the class takes images only")
    # In float64: in float32, oneDNN rounds differently for other memory formats, on some CPUs by more than 1e-6.
    model, tokenizer = (copy.deepcopy(network).double() for network in loaded(name))
    x = torch.rand(2, 3, frames, 32, 24, dtype=torch.float64) * 2 - 1
    z, y, ids = run_class(model, x)
    latents = tokenizer.encode(x)
    assert torch.allclose(latents.to_grids()[0], z, atol=1e-9, rtol=0)
    # Wan's classes clamp; the tokenizer does not, so that gradients pass.
    assert torch.allclose(tokenizer.decode(latents).clamp(-1, 1), y.clamp(-1, 1), atol=1e-9, rtol=0)
    if ids is not None:
        assert torch.equal(tokenizer.tokenize(x).ids.flatten(), ids.flatten().long())


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_any_size_is_padded_and_trimmed(loaded, name):
    _, tokenizer = loaded(name)
    clip, image = torch.rand(1, 3, 6, 21, 34) * 2 - 1, torch.rand(2, 3, 21, 34) * 2 - 1
    assert tokenizer(clip)[0].shape == clip.shape
    assert tokenizer(image)[0].shape == image.shape
    parts = list(tokenizer.encode_stream([clip[:, :, :2], clip[:, :, 2:]]))
    assert torch.allclose(
        parts[0].z if len(parts) == 1 else parts[0].join_time(parts).z, tokenizer.encode(clip).z, atol=1e-5
    )


@pytest.mark.parametrize("name", IMAGE_MODELS)
@torch.no_grad()
def test_a_clip_is_a_batch_of_images_for_image_networks(loaded, name):
    _, tokenizer = loaded(name)
    clip = torch.rand(1, 3, 4, 16, 16) * 2 - 1
    images = torch.cat([tokenizer(frame)[0] for frame in clip.unbind(2)])
    assert torch.allclose(tokenizer(clip)[0][0].transpose(0, 1), images, atol=1e-5)


def test_a_chunk_is_refused_where_the_whole_clip_is_needed(loaded):
    _, tokenizer = loaded("wan21")
    with pytest.raises(SmaltiError, match="needs the whole clip"):
        tokenizer.encode(torch.zeros(1, 3, 5, 16, 16), chunk=4)


@pytest.mark.parametrize("name", MODELS)
def test_a_trained_model_goes_back_to_its_class(loaded, name, tmp_path):
    model, tokenizer = loaded(name)
    exported = smalti.load(save(tokenizer, tmp_path / "smalti"))
    with torch.no_grad():
        for parameter in exported.parameters():
            parameter.add_(0.01)
    save_diffusers(exported, tmp_path / "diffusers")
    cls = type(model)
    back, report = cls.from_pretrained(tmp_path / "diffusers", output_loading_info=True)
    assert not any(report.values())
    assert full_config(back) == full_config(model)
    for key, weight in model.state_dict().items():
        changed = weight + 0.01 if key in dict(model.named_parameters()) else weight
        assert torch.equal(back.state_dict()[key], changed), key
    assert smalti.load(f"diffusers:{tmp_path / 'diffusers'}").encoder.config == tokenizer.encoder.config


def test_latent_factors_are_kept(loaded):
    assert loaded("flux1")[1].decoder.latent_factors == {"scaling_factor": 0.3611, "shift_factor": 0.1159}
    assert loaded("wan21")[1].decoder.latent_factors == {"latents_mean": [0.1] * 4, "latents_std": [2.0] * 4}
    model, tokenizer = loaded("flux2")
    assert torch.equal(tokenizer.decoder.stored.bn.running_var, model.bn.running_var)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_all_weights_and_checkpointing_does_not_change_them(loaded, name):
    model, tokenizer = loaded(name)
    x = torch.rand(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def gradients():
        tokenizer.requires_grad_().train()
        tokenizer.zero_grad()
        torch.manual_seed(1)
        (tokenizer(x)[0] * 3).square().mean().backward()
        tokenizer.requires_grad_(requires_grad=False).eval()
        return {name: p.grad for name, p in tokenizer.named_parameters()}

    plain = gradients()
    assert all(g is not None and g.isfinite().all() for g in plain.values())
    count = enable_activation_checkpointing(tokenizer)
    assert bool(count) == model._supports_gradient_checkpointing
    for key, gradient in gradients().items():
        assert torch.allclose(gradient, plain[key], atol=1e-5, rtol=1e-4), key


def test_a_wrong_class_a_missing_weight_and_a_wrong_path_are_one_sentence(tmp_path):
    folder = tmp_path / "m"
    path = write("sd", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DModel"}))
    with pytest.raises(SmaltiError, match="'UNet2DModel', which is not supported"):
        smalti.load(path)
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": "AutoencoderKLFlux2"}))
    with pytest.raises(SmaltiError, match="missing"):
        smalti.load(path)
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    del weights["decoder.conv_in.weight"]
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    with pytest.raises(SmaltiError, match=r"'decoder\.conv_in\.weight' is missing"):
        smalti.load(path)
    (folder / "config.json").write_text("{")
    with pytest.raises(SmaltiError, match="damaged"):
        smalti.load(path)
    with pytest.raises(SmaltiError, match="There is no folder"):
        smalti.load(f"diffusers:{tmp_path}/nothing")


def test_a_replaced_bottleneck_is_not_exported_to_diffusers(loaded, tmp_path):
    _, tokenizer = loaded("dc")
    replaced = Tokenizer(tokenizer.encoder, FSQ([4] * 8), tokenizer.decoder)
    with pytest.raises(SmaltiError, match="cannot contain the bottleneck FSQ"):
        save_diffusers(replaced, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_pipeline_folder_is_accepted(tmp_path):
    write("sd", tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    assert isinstance(smalti.load(f"diffusers:{tmp_path}").bottleneck, KL)
