"""Tokenizers that start from others: unchanged, with adapters, discrete, or continuous again."""

import runpy
from pathlib import Path

import pytest
import torch

import smalti
from smalti.errors import SmaltiError
from smalti.tokenizers import LoRADecoder, Tokenizer, WeTokDecoder, pretrained, wetok
from smalti.tokenizers.adapters import merge_adapters
from smalti.tokenizers.bottlenecks import BSQ, FSQ, GQ, KL, VQ, Identity, Projected, Unquantized
from smalti.tokenizers.checkpoints import save
from smalti.tokenizers.configurable import from_config, get_config

write = runpy.run_path(str(Path(__file__).parents[1] / "diffusers_models.py"))["write"]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return write("sd", tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def discrete(tmp_path_factory):
    torch.manual_seed(0)
    return str(
        save(
            wetok(FSQ([8, 8, 8]), stride=4, channels=8, multipliers=[1], blocks=1, groups=None),
            tmp_path_factory.mktemp("d") / "t",
        )
    )


def photos(size=64):
    return torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8), size=size, mode="bicubic").clamp(0, 1) * 2 - 1


def latents_of(tokenizer, x):
    with torch.no_grad():
        return tokenizer.encoder(x.unsqueeze(2))[0].movedim(1, -1).flatten(0, -2)


@torch.no_grad()
def test_without_replacements_it_is_the_source_in_training_mode(vae):
    tokenizer, source = pretrained(vae), smalti.load(vae)
    assert tokenizer.training
    assert all(p.requires_grad for p in tokenizer.decoder.network.parameters())
    x = photos().double()  # in float32, oneDNN may round differently for weights at other addresses
    assert torch.allclose(tokenizer.double().eval()(x)[0], source.double()(x)[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("quantizer", "unexplained"),
    [(FSQ([16] * 4), 0.03), (FSQ([64, 64]), 0.7), (GQ(4, 4), 0.2), (BSQ(16), 0.2), (VQ(4, 64), 0.6)],
    ids=["fsq", "fewer_channels", "gq", "bsq", "vq"],
)
def test_projections_that_are_fitted_to_latents_restore_them(vae, quantizer, unexplained):
    """FSQ with as many channels as latents loses its rounding only; random projections lose nearly everything."""
    tokenizer = pretrained(vae, quantizer)
    assert isinstance(tokenizer.bottleneck, Projected)
    x = torch.randn(2000, 8) @ torch.randn(8, 8, generator=torch.Generator().manual_seed(1)) + 3
    tokenizer.bottleneck.start_from_latents(x)

    def error():
        z = tokenizer.bottleneck.eval()(x[None]).z[0]
        return float((z - x[:, :4]).square().sum() / (x[:, :4] - x[:, :4].mean(0)).square().sum())

    assert error() < unexplained


@torch.no_grad()
def test_hardness_zero_passes_the_latents_of_the_source(vae):
    """A curriculum from continuous to quantized starts where the continuous autoencoder is."""
    tokenizer, source = pretrained(vae, FSQ([16] * 4)), smalti.load(vae)
    x = photos()
    tokenizer.bottleneck.start_from_latents(latents_of(source, x))
    target = source.encode(x).z

    def distance(hardness):
        tokenizer.bottleneck.train()
        tokenizer.bottleneck.quantizer.hardness = hardness
        return float((tokenizer.encode(x).z - target).square().mean() / target.var())

    assert distance(0.0) < distance(0.5) < distance(1.0) < 0.1


@torch.no_grad()
def test_adapters_change_nothing_at_first_and_are_merged(vae):
    # In float64: in float32, oneDNN may round differently for weights at other addresses.
    tokenizer, source = pretrained(vae, lora_rank=2).double().eval(), smalti.load(vae).double()
    x = photos().double()
    assert torch.allclose(tokenizer(x)[0], source(x)[0], atol=1e-12, rtol=0)
    trained = {name for name, p in tokenizer.decoder.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    for name, parameter in tokenizer.named_parameters():
        if "lora_" in name:
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    adapted = tokenizer(x)[0]
    assert (adapted - source(x)[0]).abs().max() > 0.01
    merged = merge_adapters(tokenizer)
    assert merged.state_dict().keys() == source.state_dict().keys()
    assert torch.allclose(merged(x)[0], adapted, atol=1e-12, rtol=0)


@torch.no_grad()
def test_an_export_with_adapters_loads_merged(vae, tmp_path):
    tokenizer, x = pretrained(vae, lora_rank=2).eval(), photos()
    for name, parameter in tokenizer.named_parameters():
        if "lora_" in name:
            parameter.normal_(std=0.1)
    expected = tokenizer(x)[0]
    loaded = smalti.load(save(tokenizer, tmp_path / "t"))
    assert not isinstance(loaded.decoder, LoRADecoder)
    assert torch.allclose(loaded(x)[0], expected, atol=1e-4)


@torch.no_grad()
def test_a_discrete_tokenizer_becomes_continuous(discrete):
    tokenizer, source, x = pretrained(discrete, continuous=True).eval(), smalti.load(discrete), photos()
    assert isinstance(tokenizer.bottleneck, Unquantized)
    assert not tokenizer.discrete
    z, codewords = tokenizer.encode(x).z, source.encode(x).z
    assert 0 < (z - codewords).abs().max() <= 0.5 / 4 + 1e-3  # FSQ's 8 levels are 1 / 4 apart
    rebuilt = from_config(get_config(tokenizer))
    rebuilt.load_state_dict(tokenizer.state_dict())
    assert torch.equal(rebuilt.eval()(x)[0], tokenizer(x)[0])
    noisy = Unquantized(FSQ([8, 8, 8]), noise=0.1).train()
    h = torch.zeros(1, 500, 3)
    assert noisy(h).z.std().item() == pytest.approx(0.1, rel=0.1)


def test_gradients_pass_the_removed_quantizer(discrete):
    tokenizer = pretrained(discrete, continuous=True)
    tokenizer(photos())[0].square().mean().backward()
    assert all(p.grad is not None for p in tokenizer.encoder.parameters())


def test_a_new_decoder_takes_the_same_latents(vae):
    tokenizer = pretrained(vae, decoder=WeTokDecoder(4, channels=8, multipliers=[1, 1, 1, 1], blocks=1, groups=None))
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(tokenizer.bottleneck, KL)
    assert tokenizer(photos())[0].shape == (4, 3, 64, 64)


def test_contradictions_are_one_sentence(vae, discrete):
    with pytest.raises(SmaltiError, match="set continuous to true"):
        pretrained(discrete, KL(3))
    with pytest.raises(SmaltiError, match="removes the quantizer"):
        pretrained(vae, continuous=True)
    with pytest.raises(SmaltiError, match="set one of the two"):
        pretrained(vae, decoder=WeTokDecoder(4, channels=8, blocks=1, groups=None), lora_rank=2)
    with pytest.raises(SmaltiError, match="at least 1"):
        pretrained(vae, lora_rank=0)
    with pytest.raises(SmaltiError, match="at least one channel"):
        Identity(0)
