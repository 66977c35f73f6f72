"""WeTok's networks compute what the published code computes, and stay finite where it does not."""

import pytest
import torch

from smalti.tokenizers import WeTokDecoder, WeTokEncoder, WeTokGenerativeDecoder
from smalti.tokenizers.importers import from_published
from smalti.tokenizers.models.wetok.blocks import depth_to_space


def relative(ours, theirs):
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("file", ["stage1", "stage2"])
def test_agrees_with_the_published_code(file, request, monkeypatch):
    vectors = request.getfixturevalue(file)
    tokenizer = from_published("wetok", vectors.config, vectors.state_dict)
    (grid,) = tokenizer.encoder(vectors["input"].unsqueeze(2))
    assert relative(grid[:, :, 0], vectors["latent"]) < 2e-5
    latents = tokenizer.encode(vectors["input"])
    assert torch.equal(latents.code.ids.unflatten(1, (16, 16)), vectors["indices"])
    assert torch.equal(latents.to_grids()[0][:, :, 0], vectors["quantized"])
    if file == "stage2":
        # The vectors carry the noise that was drawn for them.
        monkeypatch.setattr(torch, "randn", lambda *_, **__: vectors["noise"])
    assert relative(tokenizer.decode(latents), vectors["reconstruction"]) < 2e-5


def test_a_seed_decides_the_noise(small, photo):
    tokenizer = small(generative=True)
    tokens = tokenizer.tokenize(photo)

    def pixels(seed):
        return tokenizer.detokenize(tokens, torch.Generator().manual_seed(seed))

    with torch.no_grad():
        assert torch.equal(pixels(0), pixels(0))
        assert not torch.equal(pixels(0), pixels(1))


@pytest.mark.parametrize("generative", [False, True])
def test_a_single_position_is_finite_with_gradient(small, generative):
    tokenizer = small(generative=generative).train()
    pixels, latents = tokenizer(torch.rand(2, 3, 3, 2) * 2 - 1)
    assert latents.grids == ((1, 1, 1),)
    (pixels.square().mean() + sum(latents.code.losses.values())).backward()
    assert pixels.isfinite().all()
    assert all(p.grad.isfinite().all() for p in tokenizer.parameters())


def test_depth_to_space_orders_row_column_channel():
    x = torch.arange(8.0).reshape(1, 8, 1, 1)  # channel = (row * 2 + column) * 2 + c
    assert depth_to_space(x)[0].tolist() == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]


def test_widened_decoder_computes_the_same_function():
    torch.manual_seed(0)
    shape = {"channels": 32, "multipliers": [1, 1], "blocks": 1}
    narrow, wide = WeTokDecoder(8, **shape), WeTokGenerativeDecoder(8, **shape)
    wide.load_state_dict(wide.adapt_weights(narrow.state_dict()))
    z = torch.randn(2, 8, 1, 4, 4)
    torch.testing.assert_close(wide((z,)), narrow((z,)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("arguments", [{"channels": 48}, {"multipliers": []}, {"blocks": 0}])
def test_impossible_networks_are_refused(arguments):
    from smalti.errors import SmaltiError

    with pytest.raises(SmaltiError):
        WeTokEncoder(8, **arguments)


def test_a_seed_gives_a_clip_in_chunks_the_pixels_of_the_whole_clip(small):
    tokenizer = small(generative=True)
    x = torch.rand(1, 3, 5, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = tokenizer.encode(x)
        y = [tokenizer.decode(latents, torch.Generator().manual_seed(3), chunk) for chunk in (1, 2, 9)]
    assert (y[0] - y[1]).abs().max() < 1e-5
    assert (y[0] - y[2]).abs().max() < 1e-5
    assert not torch.equal(y[0][:, :, 1], tokenizer.decode(latents, torch.Generator().manual_seed(4))[:, :, 1])
