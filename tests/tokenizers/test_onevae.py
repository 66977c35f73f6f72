"""OneVAE's networks: the published function, causality, streaming, any number of frames and any size."""

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

SHAPES = {
    "wan": {"strides": [[1, 2], [2, 2]], "first_frame": False},
    "888": {"strides": [[2, 2], [2, 2]], "first_frame": False},
    "81616": {"strides": [[1, 2], [2, 2]], "first_frame": True},
    "161616": {"strides": [[2, 2], [2, 2], [2, 2]], "first_frame": True},
}


def build(name, dtype=torch.float32, *, seed=0):
    torch.manual_seed(seed)
    shape = {"channels": 4, "multipliers": [1, 2, 2, 2][: len(SHAPES[name]["strides"]) + 1], "blocks": 1} | SHAPES[name]
    joint = Joint(KL(6), Projected(FSQ([5, 5], 2), dim=6, in_dim=12))
    tokenizer = Tokenizer(OneVAEEncoder(12, **shape), joint, OneVAEDecoder(6, **shape))
    for parameter in tokenizer.parameters():  # biases and scales too, which start at 0 and 1
        parameter.data += 0.05 * torch.randn_like(parameter)
    return tokenizer.eval().to(dtype)


@pytest.fixture(scope="module")
def networks():
    return {name: build(name) for name in SHAPES}


def clip(frames, height=16, width=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(1, 3, frames, height, width, generator=generator, dtype=dtype) * 2 - 1


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 11), min_size=1, max_size=5))
def test_chunks_of_any_lengths_equal_the_whole_clip(name, lengths):
    tokenizer = build(name, torch.float64).as_continuous()
    x = clip(sum(lengths), dtype=torch.float64)
    with torch.no_grad():
        whole = tokenizer.encode(x, chunk=1000)
        pieces = list(tokenizer.encode_stream(x.split(lengths, dim=2)))
        pixels = torch.cat(list(tokenizer.decode_stream(pieces)), dim=2)
        expected = tokenizer.decode(whole, chunk=1000)
    latents = Latents.join_time(pieces)
    assert latents.grids == whole.grids
    assert latents.frames == sum(lengths)
    assert (latents.z - whole.z).abs().max() < 1e-12
    assert (pixels - expected).abs().max() < 1e-12


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("chunk", [1, 8, 16])
def test_chunks_equal_the_whole_clip_in_float32_and_in_ids(networks, name, chunk):
    tokenizer = networks[name]
    x = clip(33, 32, 32)
    assert torch.is_grad_enabled()
    whole, latents = tokenizer.encode(x), tokenizer.encode(x, chunk)
    assert torch.equal(latents.code.ids, whole.code.ids)
    assert (latents.z - whole.z).abs().max() <= 1e-6 * max(1, whole.z.abs().max())
    y = tokenizer.decode(whole)
    assert (tokenizer.decode(latents, chunk=chunk) - y).abs().max() <= 1e-6 * max(1, y.abs().max())
    assert torch.equal(tokenizer.detokenize(tokenizer.tokenize(x, chunk)), tokenizer.detokenize(tokenizer.tokenize(x)))


@pytest.mark.parametrize("name", SHAPES)
def test_an_image_is_the_first_frame_of_a_clip(networks, name):
    tokenizer = networks[name].as_continuous()
    x = clip(17)
    with torch.no_grad():
        image, video = tokenizer.encode(x[:, :, 0]), tokenizer.encode(x)
        assert image.frames is None
        assert (image.z - video.z[:, : image.positions]).abs().max() < 1e-6
        assert tokenizer.decode(image).shape == (1, 3, 16, 16)
        assert (tokenizer.decode(image) - tokenizer.decode(video)[:, :, 0]).abs().max() < 1e-5


@pytest.mark.parametrize("name", SHAPES)
def test_no_frame_is_seen_by_those_before_it(networks, name):
    tokenizer = networks[name].as_continuous()
    x = clip(17)
    y = x.clone()
    y[:, :, 9:] = 0.3
    with torch.no_grad():
        a, b = (tokenizer.decode(tokenizer.encode(v)) for v in (x, y))
    assert torch.equal(a[:, :, :9], b[:, :, :9])
    assert not torch.equal(a[:, :, 9:], b[:, :, 9:])


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list(SHAPES)), frames=st.integers(1, 20), height=st.integers(1, 20), width=st.integers(1, 20)
)
def test_any_number_of_frames_and_any_size_come_back(name, frames, height, width):
    tokenizer = build(name)
    x = clip(frames, height, width)
    with torch.no_grad():
        tokens = tokenizer.tokenize(x)
        y = tokenizer.detokenize(tokens)
    assert y.shape == x.shape
    assert tokens.frames == frames
    assert tokens.ids.shape[1] == tokens.positions


def test_first_frame_has_a_grid_of_twice_the_resolution(networks):
    grids = networks["81616"].encode(clip(17)).grids
    assert grids == ((1, 8, 8), (8, 4, 4))


@pytest.mark.parametrize("name", ["888", "81616"])
def test_gradient_reaches_the_encoder_through_the_integers(name):
    discrete = build(name).as_discrete().train()
    x = clip(9)
    y, latents = discrete(x)
    assert latents.code.ids is not None
    (y - x).square().mean().backward()
    for parameter in (discrete.encoder.conv_in.weight, discrete.encoder.head.weight, discrete.bottleneck.down.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def test_encoder_and_decoder_refuse_lists_that_make_no_network():
    with pytest.raises(SmaltiError, match="pair"):
        OneVAEEncoder(4, multipliers=[1, 2], strides=[[2, 2], [2, 2]])
    with pytest.raises(SmaltiError, match="pair"):
        OneVAEDecoder(4, multipliers=[1, 2], strides=[[3, 2]])
    with pytest.raises(SmaltiError, match="first_frame"):
        OneVAEEncoder(4, multipliers=[1, 2], strides=[[2, 1]], first_frame=True)


def test_chunk_is_refused_where_it_would_change_training(networks):
    with pytest.raises(SmaltiError, match="eval"):
        build("888").train().encode(clip(9), chunk=8)
    with pytest.raises(SmaltiError, match="chunk"):
        networks["888"].encode(clip(9), chunk=0)
    with pytest.raises(SmaltiError, match="change"):
        list(networks["888"].encode_stream([clip(9), clip(9, 8, 8)]))


PEAK = """
import resource, sys, torch
from smalti.tokenizers import OneVAEDecoder, OneVAEEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import KL
torch.set_num_threads(1)
shape = {"channels": 16, "blocks": 1}
tokenizer = Tokenizer(OneVAEEncoder(16, **shape), KL(8), OneVAEDecoder(8, **shape)).eval()
with torch.no_grad():
    tokenizer(torch.zeros(1, 3, int(sys.argv[1]), 64, 64))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_frames():
    peaks = [int(subprocess.check_output([sys.executable, "-c", PEAK, frames])) for frames in ("33", "257")]
    assert peaks[1] <= 1.2 * peaks[0]
