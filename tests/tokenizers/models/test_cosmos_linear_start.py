"""Cosmos' networks start as a linear codec: on real clips and images, whole and in chunks."""

import pytest
import torch

from smalti.eval.functional import mean_over_frames, psnr
from smalti.eval.linear_codec import LinearCodec
from smalti.pixels import pixels_to_uint8
from smalti.tokenizers.bottlenecks import FSQ, GQ, KL
from smalti.tokenizers.configurable import get_config
from smalti.tokenizers.linear_start.start import start_as_linear_codec
from smalti.tokenizers.models.cosmos import cosmos


@torch.no_grad()
def quality(reconstruction, pixels):
    return float(mean_over_frames(psnr, pixels_to_uint8(pixels), pixels_to_uint8(reconstruction)).mean())


def build(bottleneck, stride, **options):
    torch.manual_seed(0)
    return cosmos(bottleneck, stride, **{"blocks": 1, "channels": 32} | options).eval()


@pytest.mark.parametrize(
    ("bottleneck", "stride", "options", "margin"),
    [
        (lambda: KL(16), (1, 8, 8), {"channels": 64}, 6),  # repeating in the decoder costs several dB
        (lambda: FSQ([8, 8, 8, 5, 5, 5]), (1, 8, 8), {"channels": 128, "multipliers": [1, 1, 2]}, 4),
        (lambda: FSQ([8, 8, 8, 5, 5, 5]), (1, 8, 8), {}, 5),  # groups without room for constants
        (lambda: KL(8), (4, 4, 4), {"patch": 2, "channels": 16}, 4),
        (lambda: GQ(2, 8), (8, 8, 8), {"z_channels": 16}, 5),  # downsampling and upsampling in space and time
    ],
    ids=["images KL", "images FSQ", "images with small groups", "clips KL", "clips GQ"],
)
@torch.no_grad()
def test_step_0_is_near_the_linear_codec(batches, bottleneck, stride, options, margin):
    fitted, held_out = batches
    tokenizer = build(bottleneck(), stride, **options)
    config = get_config(tokenizer)
    random = quality(tokenizer(held_out)[0], held_out)
    report = start_as_linear_codec(tokenizer, fitted)
    assert get_config(tokenizer) == config
    assert all(0 <= error <= 1 for error in report.errors.values())
    assert report.errors["encoder.head"] < 0.2
    bits = tokenizer.quantizer.bits_per_position if tokenizer.discrete else None
    kind = {"channels": tokenizer.bottleneck.out_dim} if bits is None else {"bits": bits}
    codec = quality(LinearCodec.fit(fitted, stride, **kind).reconstruct(held_out), held_out)
    started = quality(tokenizer(held_out)[0], held_out)
    assert started > random + 8
    assert started > codec - margin


@torch.no_grad()
def test_chunks_equal_the_whole(batches):
    fitted, held_out = batches
    tokenizer = build(KL(8), (4, 8, 8))
    start_as_linear_codec(tokenizer, fitted)
    tokenizer, x = tokenizer.double(), held_out[:1].double()
    whole = tokenizer.encode(x, chunk=1000)
    parts = list(tokenizer.encode_stream(x.split([1, 4, 4], dim=2)))
    pixels = torch.cat(list(tokenizer.decode_stream(parts)), dim=2)
    expected = tokenizer.decode(whole, chunk=1000)
    assert (pixels - expected).abs().max() < 1e-9
