"""Tokenizers with other channels compute the same as before for the channels that they had."""

import copy
import runpy
from pathlib import Path

import pytest
import torch

import smalti
from smalti.errors import SmaltiError
from smalti.export.diffusers import save_diffusers
from smalti.tokenizers import cosmos, ltx, onevae, uniwetok, wetok, with_channels
from smalti.tokenizers.bottlenecks import FSQ, KL
from smalti.tokenizers.checkpoints import save
from smalti.tokenizers.pretrained import pretrained

TINY = runpy.run_path(str(Path(__file__).parents[1] / "diffusers_models.py"))
BLOCKS = [["compress_all", {}]]
FAMILIES = {
    "wetok": lambda: wetok(FSQ([8] * 4), stride=4, channels=8, blocks=1, groups=4),
    "wetok generative": lambda: wetok(FSQ([8] * 4), stride=4, channels=8, blocks=1, groups=4, generative=True),
    "uniwetok": lambda: uniwetok(FSQ([8] * 4), stride=4, channels=8, blocks=1, groups=4, attention_heads=1),
    "onevae": lambda: onevae(KL(4), stride=(2, 4, 4), channels=4, blocks=1, first_frame=True),
    "ltx": lambda: ltx(KL(4), encoder_channels=4, decoder_channels=4, encoder_blocks=BLOCKS, decoder_blocks=BLOCKS),
    "cosmos images": lambda: cosmos(FSQ([8] * 4), (1, 8, 8), channels=32, blocks=1),
    "cosmos clips": lambda: cosmos(KL(4), (4, 8, 8), channels=4, blocks=1),
}
BANDS = {"swir": 2, "rgb": 3, "nir": 1}


def build(family):
    torch.manual_seed(0)
    if family in FAMILIES:
        return FAMILIES[family]().eval().requires_grad_(requires_grad=False).double()
    return None


def pixels(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def run(tokenizer, x):
    """Return the encoder's grids and the reconstruction."""
    size = tokenizer.encoder.padded_size((1, *x.shape[-2:]))
    assert size == (1, *x.shape[-2:])
    pixels, _ = tokenizer(x, torch.Generator().manual_seed(0))
    return tokenizer.encoder(x.unsqueeze(2)), pixels


@pytest.mark.parametrize("family", FAMILIES)
def test_old_channels_keep_their_function(family, tmp_path):
    original = build(family)
    adapted = with_channels(copy.deepcopy(original), BANDS)
    side = 2 * original.encoder.stride[1]
    x = pixels(2, 6, side, side)
    grids, expected = run(original, x[:, 2:5])
    for values in (x, torch.cat([-x[:, :2], x[:, 2:5], x[:, 5:] * 0.5], dim=1)):  # whatever the new channels contain
        new_grids, reconstruction = run(adapted, values)
        for before, after in zip(grids, new_grids, strict=True):
            torch.testing.assert_close(after, before, rtol=0, atol=1e-12)
        torch.testing.assert_close(reconstruction[:, 2:5], expected, rtol=0, atol=1e-12)
        assert not reconstruction[:, [0, 1, 5]].any()
    assert adapted.channels == adapted.tiled(8 * side, side).channels == BANDS
    save(adapted.float(), tmp_path / "adapted")
    loaded = smalti.load(tmp_path / "adapted")
    assert loaded.channels == BANDS
    assert "rgb 3" in (tmp_path / "adapted" / "README.md").read_text()
    assert torch.equal(run(loaded, x.float())[1], run(adapted, x.float())[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_common_group_gray_keeps_its_function(family):
    original = build(family)
    adapted = with_channels(copy.deepcopy(original), {"depth": 1, "mask": 1})
    side = 2 * original.encoder.stride[1]
    gray = pixels(1, 1, side, side)
    grids, expected = run(original, gray.expand(-1, 3, -1, -1))
    new_grids, reconstruction = run(adapted, gray.expand(-1, 2, -1, -1))
    torch.testing.assert_close(new_grids[0], grids[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(reconstruction, expected.mean(1, keepdim=True).expand_as(reconstruction))


@pytest.mark.parametrize("name", ["sd", "dc", "wan22", "cosmos", "ltx", "vidtok", "hunyuan"])
def test_autoencoders_of_diffusers_keep_their_function(name, tmp_path):
    source = TINY["write"](name, tmp_path / name)
    original, adapted = smalti.load(source), pretrained(source, channels=BANDS).eval()
    x = pixels(1, 6, 32, 32).float()
    with torch.no_grad():
        torch.testing.assert_close(adapted(x)[0][:, 2:5], original(x[:, 2:5])[0], rtol=1e-4, atol=1e-5)
    assert all(p.requires_grad for p in adapted.decoder.last_layer.parameters())


def test_channels_are_reduced_and_added_again():
    original = build("wetok")
    x = pixels(1, 6, 8, 8)
    wide = with_channels(copy.deepcopy(original), BANDS)
    with torch.no_grad():
        for layer in (wide.encoder.encoder.conv_in, wide.decoder.last_layer):
            layer.weight.add_(0.1)  # as training does
    expected = run(wide, torch.cat([x[:, :5], torch.zeros(1, 1, 8, 8)], dim=1))[1]
    narrow = with_channels(wide, {"rgb": 3, "swir": 2})
    reconstruction = run(narrow, torch.cat([x[:, 2:5], x[:, :2]], dim=1))[1]
    torch.testing.assert_close(reconstruction, expected[:, [2, 3, 4, 0, 1]], rtol=0, atol=1e-12)
    assert narrow.encoder.encoder.conv_in.weight.shape[1] == 5


def test_new_channels_learn():
    adapted = with_channels(build("wetok").float(), BANDS).requires_grad_().train()
    x = pixels(1, 6, 16, 16).float()
    loss = (adapted(x)[0] - x).square().mean()
    loss.backward()
    gradient = adapted.decoder.last_layer.weight.grad
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    gradient = adapted.encoder.encoder.conv_in.weight.grad
    assert (gradient.transpose(0, 1).flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({}, "give the number of channels"),
        ({"nir": 0}, "give the number of channels"),
        ({"Near IR": 1}, "in lower case"),
        ({"rgb": 4}, "red, green and blue are 3"),
    ],
)
def test_invalid_groups_are_one_sentence(channels, message):
    with pytest.raises(SmaltiError, match=message):
        with_channels(build("wetok"), channels)


def test_a_network_that_cannot_keep_its_function_is_refused():
    tokenizer = build("cosmos images")
    tokenizer.encoder.bands_inside = False
    with pytest.raises(SmaltiError, match="cannot be given other channels"):
        with_channels(tokenizer, BANDS)
    tokenizer = with_channels(build("wetok"), BANDS)
    with pytest.raises(SmaltiError, match=r"pixels \(B, 6, H, W\)"):
        tokenizer.encode(torch.zeros(1, 3, 8, 8))


def test_what_cannot_have_other_channels_is_one_sentence(tmp_path):
    save(build("wetok").float(), tmp_path / "wetok")
    with pytest.raises(SmaltiError, match="set only channels"):
        pretrained(str(tmp_path / "wetok"), lora_rank=2, channels=BANDS)
    source = TINY["write"]("sd", tmp_path / "sd")
    with pytest.raises(SmaltiError, match="are for red, green and blue, but the tokenizer has the channels swir 2"):
        save_diffusers(pretrained(source, channels=BANDS), tmp_path / "out")
