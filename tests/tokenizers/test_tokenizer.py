"""Tokenizers: round trips of images and videos of any size, padding, compression ratio, autocast, errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.tokenizers import Tokenizer, WeTokDecoder, WeTokEncoder
from smalti.tokenizers.bottlenecks import GQ, KL
from smalti.tokenizers.importers import from_published
from smalti.types import TokenGrid, pack, unpack

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
    tokens = tokenizer.tokenize(photo)
    with pytest.raises(SmaltiError, match="positions"):
        tokenizer.detokenize(TokenGrid(ids=tokens.ids[:, 1:], grids=tokens.grids, size=tokens.size))
    with pytest.raises(SmaltiError, match="0 to 15"):
        tokenizer.detokenize(TokenGrid(ids=tokens.ids + 16, grids=tokens.grids, size=tokens.size))
    continuous = small(KL(8))
    with pytest.raises(SmaltiError, match="continuous"):
        continuous.tokenize(photo)
    with pytest.raises(SmaltiError, match="channels"):
        Tokenizer(tokenizer.encoder, GQ(1, 4), tokenizer.decoder)
