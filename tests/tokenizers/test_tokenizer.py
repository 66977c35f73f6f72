"""Tokenizers: round trips of any size, padding, generated ids, lists, gradients, compression ratio, autocast, errors."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.tokenizers import (
    CosmosDecoder,
    CosmosEncoder,
    LTXDecoder,
    LTXEncoder,
    OneVAEDecoder,
    OneVAEEncoder,
    Tokenizer,
    UniWeTokDecoder,
    UniWeTokEncoder,
    WeTokDecoder,
    WeTokEncoder,
    streaming,
)
from smalti.tokenizers.bottlenecks import FSQ, GQ, KL
from smalti.tokenizers.importers import from_published
from smalti.types import Latents, pack, unpack

SIDE = st.integers(1, 13)


@settings(max_examples=25, deadline=None)
@given(height=SIDE, width=SIDE, frames=st.none() | st.integers(1, 3))
def test_any_size_round_trips(height, width, frames):
    torch.manual_seed(0)
    architecture = {"channels": 32, "multipliers": [1, 1, 1], "blocks": 1}
    tokenizer = Tokenizer(WeTokEncoder(8, **architecture), GQ(2, 4), WeTokDecoder(8, **architecture)).eval().double()
    time = () if frames is None else (frames,)
    x = torch.rand(2, 3, *time, height, width, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        tokens = tokenizer.tokenize(x)
        pixels = tokenizer.detokenize(tokens)
        assert pixels.shape == x.shape
        assert tokens.ids.shape == (2, tokens.positions, 2)
        assert (tokens.size, tokens.frames) == ((height, width), frames)
        torch.testing.assert_close(pixels, tokenizer(x)[0], rtol=0, atol=1e-12)


def test_an_image_is_a_video_of_one_frame(small, photo):
    tokenizer = small()
    with torch.no_grad():
        image, video = tokenizer.tokenize(photo), tokenizer.tokenize(photo.unsqueeze(2))
        assert torch.equal(image.ids, video.ids)
        assert torch.equal(tokenizer.detokenize(image), tokenizer.detokenize(video).squeeze(2))


def test_padding_repeats_the_edge(small, photo):
    """An image of odd size has the tokens of the image with its last row and column repeated."""
    tokenizer = small().double()
    odd = photo[..., :61, :94].double()
    padded = torch.nn.functional.pad(odd, (0, 2, 0, 3), mode="replicate")
    with torch.no_grad():
        assert torch.equal(tokenizer.tokenize(odd).ids, tokenizer.tokenize(padded).ids)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3))
def test_pack_round_trip(grids):
    latents = tuple(torch.rand(2, 5, *grid) for grid in grids)
    z, packed = pack(latents)
    assert packed == tuple(grids)
    assert all(torch.equal(a, b) for a, b in zip(unpack(z, packed), latents, strict=True))


def test_bits_and_compression_ratio_of_a_published_model(manifests):
    manifest = manifests["wetok_ImageNet_downsample16_imagenet"]
    state = {key: torch.empty(shape, device="meta") for key, shape in manifest["state_dict"].items()}
    tokenizer = from_published("wetok", manifest["config"], state)
    assert tokenizer.compression_ratio == 192
    assert tokenizer.bits_per_pixel == 32 / 256
    assert tokenizer.quantizer.bits_per_position == 32


def test_under_autocast_the_bottleneck_computes_in_float32(small, photo):
    """Half-precision convolutions change the latents slightly. The ids are those of the changed latents in float32."""
    tokenizer = small()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (grid,) = tokenizer.encoder(photo.unsqueeze(2))
        ids = tokenizer.tokenize(photo).ids
    assert grid.dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(tokenizer.bottleneck(pack((grid.float(),))[0]).ids, ids)


def test_errors_are_raised_for_invalid_inputs(small, photo):
    tokenizer = small()
    with pytest.raises(SmaltiError, match="no empty axis"):
        tokenizer.encode(photo[:, :2])
    continuous = small(KL(8))
    with pytest.raises(SmaltiError, match="continuous"):
        continuous.tokenize(photo)
    with pytest.raises(SmaltiError, match="channels"):
        Tokenizer(tokenizer.encoder, GQ(1, 4), tokenizer.decoder)


@cache
def tiny(family):
    """Return the smallest tokenizer of a family with 2 tokens of 9 values per position, frozen."""
    torch.manual_seed(0)
    bottleneck = FSQ([3, 3], 2)
    if family == "wetok":
        shape = {"channels": 4, "multipliers": [1, 1, 1], "blocks": 1, "groups": None}
        networks = WeTokEncoder(4, **shape), WeTokDecoder(4, **shape)
    elif family == "uniwetok":
        shape = {"channels": 4, "multipliers": [1, 1, 1], "blocks": 1, "groups": None, "attention_heads": 1}
        networks = UniWeTokEncoder(4, **shape), UniWeTokDecoder(4, **shape)
    elif family.startswith("cosmos"):
        stride = (1, 4, 4) if family == "cosmos, images" else (4, 4, 4)
        shape = {"stride": stride, "z_channels": 4, "multipliers": [1, 1, 1], "blocks": 1, "patch": 2}
        shape["channels"] = 32 if family == "cosmos, images" else 4
        networks = CosmosEncoder(4, **shape), CosmosDecoder(4, **shape)
    elif family == "ltx":
        blocks = [["compress_all", {}], ["compress_time", {}]]
        networks = LTXEncoder(4, 4, blocks, 2), LTXDecoder(4, 4, blocks, 2)
    else:
        shape = {"channels": 4, "multipliers": [1, 1, 1], "strides": [[1, 2], [2, 2]], "blocks": 1}
        first_frame = family == "onevae, separate first frame"
        networks = (
            OneVAEEncoder(4, **shape, first_frame=first_frame),
            OneVAEDecoder(4, **shape, first_frame=first_frame),
        )
    return Tokenizer(networks[0], bottleneck, networks[1]).eval().requires_grad_(False)


FAMILIES = ("wetok", "uniwetok", "ltx", "onevae", "onevae, separate first frame", "cosmos, images", "cosmos, clips")


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, deadline=None)
@given(height=SIDE, width=SIDE, frames=st.none() | st.integers(1, 7), batch=st.integers(1, 2))
def test_generated_ids_of_any_size_are_decoded(family, tiled, height, width, frames, batch):
    tokenizer = tiny(family).tiled(8, 4) if tiled else tiny(family)
    time = () if frames is None else (frames,)
    tokens = tokenizer.tokenize(torch.rand(batch, 3, *time, height, width) * 2 - 1)
    layout = tokenizer.layout((height, width), frames)
    assert layout == tokens.layout()
    pixels = tokenizer.detokenize(tokens, torch.Generator().manual_seed(0))  # some decoders draw noise
    one_sample = [tokens.ids[0].flatten()] if batch == 1 else []
    for ids in (tokens.ids, tokens.ids.flatten(1), tokens.ids.int(), *one_sample):
        grid = tokenizer.grid(ids, (height, width), frames)
        assert torch.equal(grid.ids, tokens.ids)
        assert grid.layout() == layout
        assert torch.equal(tokenizer.detokenize(grid, torch.Generator().manual_seed(0)), pixels)
    with pytest.raises(SmaltiError, match=rf"has {layout.positions} positions .*\(B, {layout.positions * 2}\)"):
        tokenizer.grid(tokens.ids[:, 1:], (height, width), frames)


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_have_the_grids_that_the_encoder_states(family):
    tokenizer = tiny(family)
    for frames in (1, 3, 9):
        layout = tokenizer.layout((9, 5), frames)
        grids = tuple(torch.zeros(1, 4, *grid) for grid in layout.grids)
        assert tokenizer.decode(Latents.from_grids(grids, layout.size, frames)).shape == (1, 3, frames, 9, 5)


def test_tokens_with_one_id_per_position_need_no_axis_for_it(small):
    tokenizer = small(FSQ([5] * 8))
    assert tokenizer.grid(torch.zeros(2, 6).long(), size=(8, 12)).ids.shape == (2, 6, 1)


@pytest.mark.parametrize(
    ("ids", "size", "frames", "message"),
    [
        (
            torch.zeros(1, 3, 2).long(),
            (8, 8),
            None,
            r"height 8 and width 8 has 4 positions .* \(B, 4, 2\) or \(B, 8\), not",
        ),
        (torch.zeros(4, 2).long(), (8, 8), None, r"\(B, 4, 2\) or \(B, 8\), not \(4, 2\)"),
        (torch.zeros(1, 8).long(), (8, 8), 2, "A clip of 2 frames .* has 8 positions"),
        (torch.zeros(1, 8), (8, 8), None, "integers, not torch.float32"),
        ([0] * 8, (8, 8), None, r"a list: pass torch.tensor\(ids\)"),
        (torch.zeros(1, 8).long(), 8, None, r"size is 8: give \(height, width\)"),
        (torch.zeros(1, 8).long(), (8, 0), None, "size is"),
        (torch.zeros(1, 8).long(), (8, 8), 0, "frames is 0"),
    ],
)
def test_ids_that_do_not_fit_are_refused(small, ids, size, frames, message):
    with pytest.raises(SmaltiError, match=message):
        small().grid(ids, size, frames)


def test_a_list_gives_the_results_of_its_items(small, photo):
    tokenizer = small().requires_grad_(requires_grad=False)
    images = [photo, photo[..., :33, :50], photo.unsqueeze(2).expand(2, -1, 3, -1, -1)]
    latents, tokens = tokenizer.encode(images), tokenizer.tokenize(images)
    decoded, detokenized = tokenizer.decode(latents), tokenizer.detokenize(tokens)
    for index, image in enumerate(images):
        assert torch.equal(latents[index].z, tokenizer.encode(image).z)
        assert torch.equal(tokens[index].ids, tokenizer.tokenize(image).ids)
        assert torch.equal(decoded[index], tokenizer.decode(latents[index]))
        assert torch.equal(detokenized[index], decoded[index])
        assert decoded[index].shape == image.shape
    assert tokenizer.tokenize([]) == []
    with pytest.raises(SmaltiError, match=r"add the batch axis with x\[None\]"):
        tokenizer.tokenize([photo, photo[0]])


def record_chunks(tokenizer):
    """Return two lists to which the encoder and the decoder append the number of frames or latents of each chunk."""
    encoded, decoded = [], []
    tokenizer.encoder.register_forward_pre_hook(lambda _, arguments: encoded.append(arguments[0].shape[2]))
    tokenizer.decoder.register_forward_pre_hook(lambda _, arguments: decoded.append(arguments[0][0].shape[2]))
    return encoded, decoded


def test_chunks_are_used_if_nothing_records_gradients(monkeypatch):
    """Whole clips, with all activations in memory, are encoded and decoded only for a backward pass."""
    monkeypatch.setattr(streaming, "MIN_PIXELS", 4 * 4 * 4)
    monkeypatch.setattr(streaming, "MIN_POSITIONS", 1)
    x = torch.rand(1, 3, 13, 4, 4) * 2 - 1
    tokenizer = copy.deepcopy(tiny("onevae"))
    encoded, decoded = record_chunks(tokenizer)

    def chunks(z_requires_grad=False):
        encoded.clear()
        decoded.clear()
        latents = tokenizer.encode(x)
        z = latents.z.detach().requires_grad_(z_requires_grad)
        pixels = tokenizer.decode(replace(latents, code=replace(latents.code, z=z)))
        assert pixels.requires_grad == (len(decoded) == 1)
        assert latents.z.requires_grad == (len(encoded) == 1)
        return encoded, decoded

    in_chunks, whole = [1, 4, 4, 4], [13]
    assert chunks() == (in_chunks, [1, 2, 2, 2])
    assert chunks(z_requires_grad=True) == (in_chunks, [7])
    tokenizer.decoder.requires_grad_()
    assert chunks() == (in_chunks, [7])
    with torch.no_grad():
        assert chunks() == (in_chunks, [1, 2, 2, 2])
    tokenizer.encoder.requires_grad_()
    assert chunks() == (whole, [7])
    tokenizer.requires_grad_(requires_grad=False)
    x.requires_grad_()
    assert chunks() == (whole, [1, 2, 2, 2])


def test_tokenizing_records_no_gradients(small, photo):
    """Ids have no gradients, so neither trainable parameters nor pixels make tokenize keep activations."""
    tokenizer = small()
    recorded = []
    tokenizer.encoder.register_forward_hook(lambda _, __, outputs: recorded.append(outputs[0].requires_grad))
    tokenizer.tokenize(photo.clone().requires_grad_())
    tokenizer.encode(photo)
    assert recorded == [False, True]


def test_a_frozen_tokenizer_passes_gradients_to_its_inputs(small, photo):
    tokenizer = small(KL(8)).requires_grad_(requires_grad=False)
    pixels = photo.clone().requires_grad_()
    reconstruction, latents = tokenizer(pixels)
    reconstruction.square().mean().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in tokenizer.parameters())
    grids = tuple(grid.detach().requires_grad_() for grid in latents.to_grids())
    tokenizer.decode(Latents.from_grids(grids, latents.size)).square().mean().backward()
    assert all(grid.grad is not None and grid.grad.abs().sum() > 0 for grid in grids)
