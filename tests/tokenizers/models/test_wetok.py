"""WeTok's networks: agreement with the published code, noise, streaming, finite values for 1x1 latents."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers import WeTokDecoder, WeTokEncoder, WeTokGenerativeDecoder
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.models.wetok.blocks import depth_to_space


def relative(ours, theirs):
    """Return the maximum difference, relative to the second's magnitude."""
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("file", ["stage1", "stage2"])
def test_agrees_with_the_published_code(file, request, monkeypatch):
    """Both compute in float32: rounding errors of networks of this depth can add up to 2e-5."""
    vectors = request.getfixturevalue(file)
    tokenizer = from_published("wetok", vectors.config, vectors.state_dict)
    (grid,) = tokenizer.encoder(vectors["input"].unsqueeze(2))
    assert relative(grid[:, :, 0], vectors["latent"]) < 2e-5
    latents = tokenizer.encode(vectors["input"])
    assert torch.equal(latents.code.ids.unflatten(1, (16, 16)), vectors["indices"])
    assert torch.equal(latents.to_grids()[0][:, :, 0], vectors["quantized"])
    if file == "stage2":
        # The file contains the noise that the published code drew.
        monkeypatch.setattr(torch, "randn", lambda *_, **__: vectors["noise"])
    assert relative(tokenizer.decode(latents), vectors["reconstruction"]) < 2e-5


def test_agrees_with_the_published_code_of_bitdance(vectors, monkeypatch):
    published = vectors("uniwetok_bitdance")
    tokenizer = from_published("wetok", published.config, published.state_dict)
    (grid,) = tokenizer.encoder(published["input"].unsqueeze(2))
    assert relative(grid[:, :, 0], published["latent"]) < 2e-5
    latents = tokenizer.encode(published["input"])
    assert torch.equal(latents.code.ids.unflatten(1, (8, 12)), published["indices"])
    assert torch.equal(latents.to_grids()[0][:, :, 0] > 0, published["bits"].bool())
    monkeypatch.setattr(torch, "randn", lambda *_, **__: published["noise"])
    assert relative(tokenizer.decode(latents), published["reconstruction"]) < 2e-5


def test_a_seed_determines_the_noise(small, photo):
    tokenizer = small(generative=True)
    tokens = tokenizer.tokenize(photo)

    def pixels(seed):
        return tokenizer.detokenize(tokens, torch.Generator().manual_seed(seed))

    with torch.no_grad():
        assert torch.equal(pixels(0), pixels(0))
        assert not torch.equal(pixels(0), pixels(1))


@pytest.mark.parametrize("generative", [False, True])
def test_a_single_position_has_finite_output_and_gradients(small, generative):
    tokenizer = small(generative=generative).train()
    pixels, latents = tokenizer(torch.rand(2, 3, 3, 2) * 2 - 1)
    assert latents.grids == ((1, 1, 1),)
    (pixels.square().mean() + sum(latents.code.losses.values())).backward()
    assert pixels.isfinite().all()
    assert all(p.grad.isfinite().all() for p in tokenizer.parameters())


def test_depth_to_space_orders_channels_by_row_column_channel():
    x = torch.arange(8.0).reshape(1, 8, 1, 1)  # channel = (row * 2 + column) * 2 + c
    assert depth_to_space(x)[0].tolist() == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]


def test_a_generative_decoder_starts_with_the_function_of_a_deterministic_one():
    torch.manual_seed(0)
    architecture = {"channels": 32, "multipliers": [1, 1], "blocks": 1}
    deterministic = WeTokDecoder(8, **architecture).double()
    generative = WeTokGenerativeDecoder(8, **architecture).double()
    generative.load_state_dict(generative.adapt_weights(deterministic.state_dict()))
    z = torch.randn(2, 8, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(generative((z,)), deterministic((z,)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("arguments", [{"channels": 48}, {"multipliers": []}, {"blocks": 0}])
def test_invalid_networks_are_rejected(arguments):
    with pytest.raises(SmaltiError):
        WeTokEncoder(8, **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_a_seed_a_clip_in_chunks_equals_the_whole_clip(small, tolerance, difference, dtype):
    tokenizer = small(generative=True).to(dtype)
    x = torch.rand(1, 3, 5, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype) * 2 - 1

    def decode(seed, chunk=None):
        return tokenizer.decode(latents, torch.Generator().manual_seed(seed), chunk)

    with torch.no_grad():
        latents = tokenizer.encode(x)
        whole = decode(3, chunk=9)
        assert difference(decode(3, chunk=1), whole) <= tolerance(dtype, tokenizer.decoder)
        assert difference(decode(3, chunk=2), whole) <= tolerance(dtype, tokenizer.decoder)
        assert difference(decode(4), whole) > 1e-3
        assert difference(decode(4)[:, :, 1], whole[:, :, 1]) > 1e-3
