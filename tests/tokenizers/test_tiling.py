"""Tiling: tiles cover a frame, are blended without a seam, stream, and need the peak memory of one tile."""

import itertools
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti import load
from smalti.errors import SmaltiError
from smalti.pixels import uint8_to_pixels
from smalti.tokenizers import LTXDecoder, LTXEncoder, OneVAEDecoder, OneVAEEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import FSQ, KL
from smalti.tokenizers.checkpoints import save
from smalti.tokenizers.tiling import blend_weights, tile_spans

BLOCKS = [["res_x", {"num_layers": 1}], ["compress_all", {}], ["res_x", {"num_layers": 1}]]


def build_tokenizer(seed=0, *, first_frame=False):
    """Build a small video tokenizer of stride 2 x 4 x 4 with one or two grids."""
    torch.manual_seed(seed)
    architecture = {"channels": 4, "multipliers": [1, 2, 2], "strides": [[1, 2], [2, 2]], "blocks": 1}
    architecture["first_frame"] = first_frame
    return Tokenizer(OneVAEEncoder(8, **architecture), FSQ([9, 9, 9, 9], 2), OneVAEDecoder(8, **architecture)).eval()


def clip(frames, height, width, dtype=torch.float32):
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(2, 3, frames, height, width, generator=generator, dtype=dtype) * 2 - 1


@settings(deadline=None)
@given(length=st.integers(1, 300), tile=st.integers(2, 40), fraction=st.floats(0, 0.5))
def test_tiles_cover_an_axis_evenly(length, tile, fraction):
    overlap = int(tile * fraction)
    spans = tile_spans(length, tile, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    sizes = {end - start for start, end in spans}
    assert len(sizes) == 1
    assert max(sizes) <= tile
    assert all(before[1] - after[0] >= overlap for before, after in itertools.pairwise(spans))
    assert len(spans) == max(1, math.ceil((length - overlap) / (tile - overlap)))


@settings(deadline=None)
@given(length=st.integers(1, 200), tile=st.integers(2, 40), fraction=st.floats(0, 0.5), scale=st.integers(1, 8))
def test_blend_weights_sum_to_one_and_are_zero_at_the_border_of_a_tile(length, tile, fraction, scale):
    overlap = int(tile * fraction)
    spans = tile_spans(length, tile, overlap)
    total = torch.zeros(length * scale)
    weights = blend_weights(spans, scale, overlap, total)
    for (start, end), weight in zip(spans, weights, strict=True):
        total[start * scale : end * scale] += weight
    torch.testing.assert_close(total, torch.ones_like(total))
    if overlap * scale >= 4 and len(spans) > 1:
        assert weights[0][-1] < 1e-5
        assert weights[1][0] < 1e-5


@settings(max_examples=12, deadline=None)
@given(first_frame=st.booleans(), frames=st.integers(1, 6), height=st.integers(1, 60), width=st.integers(1, 60))
@torch.no_grad()
def test_any_number_of_frames_and_any_size_round_trip(first_frame, frames, height, width):
    whole = build_tokenizer(first_frame=first_frame)
    tokenizer = whole.tiled(24, 8)
    x = clip(frames, height, width)
    tokens = tokenizer.tokenize(x)
    expected = whole.tokenize(x)
    assert tokens.grids == expected.grids
    assert tokens.ids.shape == expected.ids.shape
    assert tokenizer.detokenize(tokens).shape == x.shape
    if max(height, width) <= 24:
        assert torch.equal(tokens.ids, expected.ids)
        assert torch.equal(tokenizer.detokenize(tokens), whole.detokenize(tokens))


@pytest.mark.parametrize("first_frame", [False, True])
@pytest.mark.parametrize("chunk", [2, 4])
@torch.no_grad()
def test_chunks_equal_the_whole_clip_in_tiles(first_frame, chunk):
    tokenizer = build_tokenizer(first_frame=first_frame).double().tiled(16, 4)
    x = clip(9, 28, 20, torch.float64)
    whole, latents = tokenizer.encode(x, 1000), tokenizer.encode(x, chunk)
    assert torch.equal(latents.code.ids, whole.code.ids)
    assert (tokenizer.decode(latents, chunk=chunk) - tokenizer.decode(whole, chunk=1000)).abs().max() < 1e-12


@torch.no_grad()
def test_a_decoder_that_looks_ahead_streams_in_tiles():
    torch.manual_seed(0)
    networks = LTXEncoder(5, 8, BLOCKS, 2), KL(4, shared_log_variance=True), LTXDecoder(4, 8, BLOCKS, 2)
    tokenizer = Tokenizer(*networks).double().eval().tiled(16, 8)
    x = clip(9, 40, 24, torch.float64)
    latents = tokenizer.encode(x, 1000)
    assert (tokenizer.decode(latents, chunk=2) - tokenizer.decode(latents, chunk=1000)).abs().max() < 1e-12


@torch.no_grad()
def test_with_enough_overlap_tiles_equal_the_whole_frame():
    """Convolutions have small receptive fields: only the border of a tile differs, and it is discarded."""
    from skimage import data

    torch.manual_seed(0)
    architecture = {"channels": 4, "multipliers": [1, 2], "strides": [[1, 2]], "blocks": 1}
    tokenizer = Tokenizer(OneVAEEncoder(8, **architecture), KL(4), OneVAEDecoder(4, **architecture)).eval().double()
    for part in (tokenizer.encoder, tokenizer.decoder):
        part.middle[1].proj.weight.zero_()  # without attention, which sees the whole frame
    x = uint8_to_pixels(torch.from_numpy(data.chelsea()[100:148, :448]).permute(2, 0, 1)[None]).double()
    # The blending weights are float32 numbers, and the discarded border has a weight of 1e-6.
    torch.testing.assert_close(tokenizer.tiled(256, 128)(x)[0], tokenizer(x)[0], rtol=0, atol=1e-5)
    assert not torch.allclose(tokenizer.tiled(256, 16)(x)[0], tokenizer(x)[0], atol=1e-5)


@torch.no_grad()
def test_a_seed_determines_the_noise_of_tiles_for_every_chunk_size(small, photo):
    whole = small(generative=True).double()
    tokenizer = whole.tiled(32, 8)

    def decode(tokenizer, latents, seed, chunk=None):
        return tokenizer.decode(latents, torch.Generator().manual_seed(seed), chunk)

    x = photo[:, :, None].repeat(1, 1, 5, 1, 1).double()
    latents = tokenizer.encode(x)
    expected = decode(tokenizer, latents, 1, 1000)
    torch.testing.assert_close(decode(tokenizer, latents, 1, 2), expected, rtol=0, atol=1e-12)
    assert not torch.equal(decode(tokenizer, latents, 2, 1000), expected)
    small_frame = tokenizer.encode(x[..., :32, :32])
    assert torch.equal(decode(tokenizer, small_frame, 1), decode(whole, small_frame, 1))


def test_a_tiled_tokenizer_shares_weights_trains_and_is_saved(tmp_path):
    whole = build_tokenizer()
    tokenizer = whole.tiled(16, 4)
    assert {id(p) for p in tokenizer.parameters()} == {id(p) for p in whole.parameters()}
    assert not tokenizer.training
    x = clip(3, 24, 24)
    (tokenizer(x)[0] - x).square().mean().backward()
    assert all(p.grad is not None for p in whole.parameters())
    save(tokenizer, tmp_path / "tiled")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "tiled")(x)[0], tokenizer(x)[0])


@pytest.mark.parametrize(("tile", "overlap"), [(30, 8), (32, 6), (32, 20), (0, 0), (32, -4), (2, 0)])
def test_invalid_tile_sizes_are_rejected(tile, overlap):
    with pytest.raises(SmaltiError, match=r"multiples of the 4 pixels.*give, for instance, \d+ and \d+"):
        build_tokenizer().tiled(tile, overlap)


STEPS = 250


@pytest.mark.slow
def test_no_seam_is_visible_in_a_photo():
    """Train a small OneVAE for half a minute on crops of a photo, then compare the whole photo with four tiles."""
    from skimage import data

    torch.manual_seed(0)
    architecture = {"channels": 8, "multipliers": [1, 2, 4], "strides": [[1, 2], [2, 2]], "blocks": 1}
    tokenizer = Tokenizer(OneVAEEncoder(32, **architecture), KL(16), OneVAEDecoder(16, **architecture)).eval()
    photo = uint8_to_pixels(torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None])
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=5e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.05, total_iters=STEPS)
    for _ in range(STEPS):
        crops = torch.cat([photo[..., y : y + 32, x : x + 32] for y, x in torch.randint(480, (4, 2)).tolist()])
        loss = (tokenizer(crops)[0] - crops).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        schedule.step()

    def psnr(ours, theirs):
        return float(-10 * torch.log10(((ours - theirs) / 2).square().mean()))

    with torch.no_grad():
        whole = tokenizer(photo)[0]
        assert psnr(whole, photo) > 17
        blended, without_overlap = (psnr(tokenizer.tiled(256, overlap)(photo)[0], whole) for overlap in (64, 0))
    assert blended > 45
    assert blended > without_overlap + 6  # 51 dB and 37 dB


PEAK_MEMORY = """
import resource, sys, torch
from smalti.tokenizers import OneVAEDecoder, OneVAEEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import KL
torch.set_num_threads(1)
architecture = {"channels": 8, "blocks": 1}
tokenizer = Tokenizer(OneVAEEncoder(16, **architecture), KL(8), OneVAEDecoder(8, **architecture)).eval().tiled(64, 16)
size = int(sys.argv[1])
with torch.no_grad():
    tokenizer(torch.zeros(1, 3, 1, size, size))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_peak_memory_does_not_depend_on_the_frame_size():
    peaks = [int(subprocess.check_output([sys.executable, "-c", PEAK_MEMORY, size])) for size in ("64", "256")]
    assert peaks[1] <= 1.2 * peaks[0]
