"""OneVAE's networks: causality, streaming, any number of frames, any frame size, gradients."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.tokenizers import OneVAEDecoder, OneVAEEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import FSQ, KL, Joint, Projected
from smalti.types import Latents

ARCHITECTURES = {
    "wan": {"strides": [[1, 2], [2, 2]], "first_frame": False},
    "888": {"strides": [[2, 2], [2, 2]], "first_frame": False},
    "81616": {"strides": [[1, 2], [2, 2]], "first_frame": True},
    "161616": {"strides": [[2, 2], [2, 2], [2, 2]], "first_frame": True},
}
DTYPES = (torch.float32, torch.float64)


def build(name, dtype=torch.float32, *, seed=0):
    torch.manual_seed(seed)
    architecture = ARCHITECTURES[name]
    multipliers = [1, 2, 2, 2][: len(architecture["strides"]) + 1]
    architecture = {"channels": 4, "multipliers": multipliers, "blocks": 1} | architecture
    joint = Joint(KL(6), Projected(FSQ([5, 5], 2), dim=6, in_dim=12))
    tokenizer = Tokenizer(OneVAEEncoder(12, **architecture), joint, OneVAEDecoder(6, **architecture))
    for parameter in tokenizer.parameters():  # also biases and scales, which are initialized to 0 and 1
        parameter.data += 0.05 * torch.randn_like(parameter)
    return tokenizer.eval().to(dtype)


@pytest.fixture(scope="module")
def tokenizers():
    return {(name, dtype): build(name, dtype) for name in ARCHITECTURES for dtype in DTYPES}


def clip(frames, height=16, width=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(1, 3, frames, height, width, generator=generator, dtype=dtype) * 2 - 1


@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 11), min_size=1, max_size=5))
def test_chunks_of_any_length_equal_the_whole_clip(tokenizers, name, lengths):
    tokenizer = tokenizers[name, torch.float64].as_continuous()
    x = clip(sum(lengths), dtype=torch.float64)
    with torch.no_grad():
        whole = tokenizer.encode(x, chunk=1000)
        parts = list(tokenizer.encode_stream(x.split(lengths, dim=2)))
        pixels = torch.cat(list(tokenizer.decode_stream(parts)), dim=2)
        expected = tokenizer.decode(whole, chunk=1000)
    latents = Latents.join_time(parts)
    assert latents.grids == whole.grids
    assert latents.frames == sum(lengths)
    assert (latents.z - whole.z).abs().max() < 1e-12
    assert (pixels - expected).abs().max() < 1e-12


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("chunk", [1, 8, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_equal_the_whole_clip(tokenizers, tolerance, difference, name, chunk, dtype):
    tokenizer = tokenizers[name, dtype]
    x = clip(33, 32, 32, dtype)
    assert torch.is_grad_enabled()  # without `chunk`, the whole clip is then processed at once
    whole, in_chunks = (tokenizer.as_continuous().encode(x, chunk=size) for size in (None, chunk))
    assert difference(in_chunks.z, whole.z) <= tolerance(dtype, tokenizer.encoder)
    pixels = tokenizer.decode(whole)
    assert difference(tokenizer.decode(in_chunks, chunk=chunk), pixels) <= tolerance(dtype, tokenizer)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("chunk", [1, 8, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_have_the_ids_of_the_whole_clip(tokenizers, tolerance, difference, name, chunk, dtype):
    tokenizer = tokenizers[name, dtype].as_discrete()
    x = clip(33, 32, 32, dtype)
    whole, in_chunks = tokenizer.encode(x), tokenizer.encode(x, chunk)
    # Levels of FSQ have a distance of 1. In float32, a value within rounding error of the boundary between two levels may
    # flip: of evenly distributed values, a fraction of twice the tolerance.
    values = whole.code.ids.numel() * len(tokenizer.bottleneck.quantizer.levels)
    flips = 0 if dtype == torch.float64 else math.ceil(values * 2 * tolerance(dtype, tokenizer.encoder))
    same = (in_chunks.code.ids == whole.code.ids).all(dim=-1)
    assert (~same).sum() <= flips
    assert difference(in_chunks.z[same], whole.z[same]) <= tolerance(dtype, tokenizer.bottleneck)
    if same.all():
        pixels, expected = (
            tokenizer.detokenize(tokenizer.tokenize(x, chunk)),
            tokenizer.detokenize(tokenizer.tokenize(x)),
        )
        assert difference(pixels, expected) <= tolerance(dtype, tokenizer.decoder)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_image_is_the_first_frame_of_a_clip(tokenizers, tolerance, difference, name, dtype):
    tokenizer = tokenizers[name, dtype].as_continuous()
    x = clip(17, dtype=dtype)
    with torch.no_grad():
        image, video = tokenizer.encode(x[:, :, 0]), tokenizer.encode(x)
        assert image.frames is None
        assert difference(image.z, video.z[:, : image.positions]) <= tolerance(dtype, tokenizer.encoder)
        pixels = tokenizer.decode(image)
        assert pixels.shape == (1, 3, 16, 16)
        expected = tokenizer.decode(video)[:, :, 0]
        assert difference(pixels, expected) <= tolerance(dtype, tokenizer.encoder, tokenizer.decoder)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_frame_depends_on_later_frames(tokenizers, name):
    tokenizer = tokenizers[name, torch.float32].as_continuous()
    x = clip(17)
    changed = x.clone()
    changed[:, :, 9:] = 0.3
    with torch.no_grad():
        a, b = (tokenizer.decode(tokenizer.encode(video)) for video in (x, changed))
    assert torch.equal(a[:, :, :9], b[:, :, :9])
    assert not torch.equal(a[:, :, 9:], b[:, :, 9:])


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list(ARCHITECTURES)),
    frames=st.integers(1, 20),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
)
def test_any_number_of_frames_and_any_size_round_trip(tokenizers, name, frames, height, width):
    tokenizer = tokenizers[name, torch.float32]
    x = clip(frames, height, width)
    with torch.no_grad():
        tokens = tokenizer.tokenize(x)
        pixels = tokenizer.detokenize(tokens)
    assert pixels.shape == x.shape
    assert tokens.frames == frames
    assert tokens.ids.shape[1] == tokens.positions


def test_first_frame_has_a_grid_of_twice_the_resolution(tokenizers):
    grids = tokenizers["81616", torch.float32].encode(clip(17)).grids
    assert grids == ((1, 8, 8), (8, 4, 4))


@pytest.mark.parametrize("name", ["888", "81616"])
def test_gradients_reach_the_encoder_through_the_quantizer(name):
    discrete = build(name).as_discrete().train()
    x = clip(9)
    y, latents = discrete(x)
    assert latents.code.ids is not None
    (y - x).square().mean().backward()
    for parameter in (discrete.encoder.conv_in.weight, discrete.encoder.head.weight, discrete.bottleneck.down.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def test_invalid_strides_are_rejected():
    with pytest.raises(SmaltiError, match="pair"):
        OneVAEEncoder(4, multipliers=[1, 2], strides=[[2, 2], [2, 2]])
    with pytest.raises(SmaltiError, match="pair"):
        OneVAEDecoder(4, multipliers=[1, 2], strides=[[3, 2]])
    with pytest.raises(SmaltiError, match="first_frame"):
        OneVAEEncoder(4, multipliers=[1, 2], strides=[[2, 1]], first_frame=True)


def test_invalid_chunks_are_rejected(tokenizers):
    tokenizer = tokenizers["888", torch.float32]
    with pytest.raises(SmaltiError, match="eval"):
        build("888").train().encode(clip(9), chunk=8)
    with pytest.raises(SmaltiError, match="chunk"):
        tokenizer.encode(clip(9), chunk=0)
    with pytest.raises(SmaltiError, match="change"):
        list(tokenizer.encode_stream([clip(9), clip(9, 8, 8)]))


PEAK_MEMORY = """
import resource, sys, torch
from smalti.tokenizers import OneVAEDecoder, OneVAEEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import KL
torch.set_num_threads(1)
architecture = {"channels": 16, "blocks": 1}
tokenizer = Tokenizer(OneVAEEncoder(16, **architecture), KL(8), OneVAEDecoder(8, **architecture)).eval()
with torch.no_grad():
    tokenizer(torch.zeros(1, 3, int(sys.argv[1]), 64, 64))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_peak_memory_does_not_depend_on_the_number_of_frames():
    peaks = [int(subprocess.check_output([sys.executable, "-c", PEAK_MEMORY, frames])) for frames in ("33", "257")]
    assert peaks[1] <= 1.2 * peaks[0]
