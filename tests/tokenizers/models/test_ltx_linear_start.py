"""LTX-Video's networks start as a linear codec, on real clips and photos."""

import pytest
import torch

from smalti.data import Clips, VideoEvaluationTransform, evaluation_loader
from smalti.eval.linear_codec import LinearCodec
from smalti.tokenizers import LTXDecoder, LTXEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import FSQ, GQ, KL
from smalti.tokenizers.configurable import get_config
from smalti.tokenizers.linear_start.start import start_as_linear_codec

STRIDED = [["res_x", {}], ["compress_all", {}], ["res_x_y", {}], ["compress_all", {}], ["res_x", {}]]
FOLDED = [["compress_space_res", {}], ["res_x", {}], ["compress_time_res", {}], ["compress_all_res", {}], ["res_x", {}]]
UPSAMPLE = ["compress_all", {"multiplier": 2, "residual": True}]
UNFOLDED = [["res_x", {"inject_noise": True}], UPSAMPLE, ["res_x", {"inject_noise": True}], UPSAMPLE, ["res_x", {}]]
DENOISING = {"timestep": 0.05, "noise": 0.025, "training_noise": [0.0, 0.2]}


def build(version, bottleneck=None):
    """Return a narrow tokenizer with the blocks of a version and a stride of (4, 8, 8)."""
    torch.manual_seed(0)
    bottleneck = bottleneck or KL(24, shared_log_variance=True)
    encoder = LTXEncoder(bottleneck.in_dim, 16, FOLDED if version == "0.9.5" else STRIDED, patch=2)
    if version == "0.9.0":
        return Tokenizer(encoder, bottleneck, LTXDecoder(bottleneck.out_dim, 16, STRIDED, patch=2))
    causal = version == "0.9.1"
    return Tokenizer(
        encoder, bottleneck, LTXDecoder(bottleneck.out_dim, 12, UNFOLDED, patch=2, causal=causal, **DENOISING)
    )


@pytest.fixture(scope="module")
def data():
    """Batches of clips and of images, (B, 3, T, H, W) and (B, 3, H, W), and a held-out clip of another scene."""
    transform = VideoEvaluationTransform(9, 25, resize=64, crop=64)
    clips = [batch.pixels for batch in evaluation_loader(Clips("validation"), transform, 1, 0)]
    crops = torch.cat(clips[:-1]).unfold(3, 32, 32).unfold(4, 32, 32).permute(0, 3, 4, 1, 2, 5, 6).flatten(0, 2)
    images = torch.cat([clip[:, :, -1].unfold(2, 32, 32).unfold(3, 32, 32) for clip in clips[:-1]])
    return [crops[::2], images.permute(0, 2, 3, 1, 4, 5).flatten(0, 2), crops[1::2]], clips[-1]


def mean_psnr(x, y):
    """Return the PSNR of all frames together, in dB."""
    return float(-10 * ((x - y.clamp(-1, 1)) / 2).square().mean().log10())


@pytest.mark.parametrize(("version", "gain"), [("0.9.0", 5.0), ("0.9.1", 5.0), ("0.9.5", 3.5)])
def test_reconstructs_a_held_out_clip_without_training(data, version, gain):
    """Only space-to-depth (0.9.5) cannot compute arbitrary components. The start draws no global random numbers."""
    batches, held_out = data
    tokenizer = build(version)
    config, state = get_config(tokenizer), torch.get_rng_state()
    report = start_as_linear_codec(tokenizer, batches)
    assert torch.equal(torch.get_rng_state(), state)
    assert get_config(tokenizer) == config
    assert all(0 <= error <= 1 for error in report.errors.values())
    tokenizer.eval()
    with torch.no_grad():
        reconstruction = tokenizer(held_out)[0]
    mean_color = held_out.mean((2, 3, 4), keepdim=True).expand_as(held_out)
    linear = LinearCodec.fit(batches, tokenizer.encoder.stride, channels=24).reconstruct(held_out)
    assert mean_psnr(held_out, reconstruction) > mean_psnr(held_out, linear) - 2
    assert mean_psnr(held_out, reconstruction) > mean_psnr(held_out, mean_color) + gain

    tokenizer.double()
    latents = tokenizer.encode(held_out.double(), chunk=4)
    whole = tokenizer.encode(held_out.double(), chunk=1000)
    torch.testing.assert_close(latents.code.z, whole.code.z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bottleneck", [FSQ([8] * 12), GQ(8, 8)], ids=["FSQ", "GQ"])
def test_quantizers_start(data, bottleneck):
    batches, held_out = data
    tokenizer = build("0.9.0", bottleneck)
    start_as_linear_codec(tokenizer, batches)
    tokenizer.eval()
    with torch.no_grad():
        reconstruction = tokenizer(held_out)[0]
    codec = LinearCodec.fit(batches, tokenizer.encoder.stride, bits=tokenizer.quantizer.bits_per_position)
    assert mean_psnr(held_out, reconstruction) > mean_psnr(held_out, codec.reconstruct(held_out)) - 1.5
