"""Metrics and the baseline of clips, on real videos."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchmetrics.functional.image import peak_signal_noise_ratio

from smalti.eval.baseline import baseline, compare, kept_pixels
from smalti.eval.functional import bicubic, psnr, ssim
from smalti.pixels import pixels_to_uint8, uint8_to_pixels


def noisy(clips, strength):
    generator = torch.Generator().manual_seed(0)
    return pixels_to_uint8(uint8_to_pixels(clips) + strength * torch.randn(clips.shape, generator=generator))


def test_an_image_is_a_clip_of_one_frame(photos, stand_ins):
    restored = noisy(photos, 0.1)
    image = compare(photos, restored, stand_ins[0])
    clip = compare(photos[:, :, None], restored[:, :, None], stand_ins[0])
    assert list(image) == ["psnr", "ssim", "perceptual_efflite0"]
    assert_close(clip.pop("psnr_clip"), image["psnr"])
    assert_close(clip, image, rtol=0, atol=0)
    assert torch.equal(baseline(photos, (8, 4, 4)), bicubic(photos, (4, 4)))
    assert torch.equal(baseline(photos[:, :, None], (8, 4, 4))[:, :, 0], bicubic(photos, (4, 4)))


def test_means_over_frames_and_the_error_over_the_clip(clips):
    restored = clips.clone()
    restored[:, :, 3] = noisy(clips[:, :, 3], 0.3)
    restored[:, :, 4:] = noisy(clips[:, :, 4:], 0.05)
    values = compare(clips, restored)
    frames = [psnr(clips[:, :, t], restored[:, :, t]) for t in range(9)]
    assert_close(values["psnr"], torch.stack(frames).mean(0))
    assert_close(
        values["ssim"], torch.stack([ssim(clips[:, :, t], restored[:, :, t]) for t in range(9)]).double().mean(0)
    )
    whole = peak_signal_noise_ratio(
        clips.double(), restored.double(), data_range=255.0, reduction="none", dim=(1, 2, 3, 4)
    )
    assert_close(values["psnr_clip"], whole)
    # Three frames are equal, which lifts the mean over frames by tens of dB and the clip's error by a third.
    assert (values["psnr"] - values["psnr_clip"] > 15).all()


def test_known_errors_in_two_frames():
    x = torch.full((1, 3, 2, 16, 16), 100, dtype=torch.uint8)
    y = x.clone()
    y[:, :, 0] += 1  # MSE 1
    y[:, :, 1] += 3  # MSE 9
    values = compare(x, y)
    assert values["psnr"].item() == pytest.approx(20 * math.log10(255) - 10 * math.log10(9) / 2)
    assert values["psnr_clip"].item() == pytest.approx(20 * math.log10(255) - 10 * math.log10(5))


def test_the_baseline_drops_frames_and_draws_them_between(clips):
    restored = baseline(clips, (4, 1, 1))
    assert torch.equal(restored[:, :, ::4], clips[:, :, ::4])
    middle = (clips[:, :, 0].float() + clips[:, :, 4].float()) / 2
    assert (restored[:, :, 2].float() - middle).abs().max() <= 0.5 + 1e-3
    quarter = clips[:, :, 4].float() * 0.75 + clips[:, :, 8].float() * 0.25
    assert (restored[:, :, 5].float() - quarter).abs().max() <= 0.5 + 1e-3
    cut = baseline(clips[:, :, :8], (4, 1, 1))  # after the last kept frame there is nothing to draw towards
    assert all(torch.equal(cut[:, :, t], clips[:, :, 4]) for t in range(4, 8))


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 12), stride=st.integers(1, 8), factor=st.integers(1, 5), size=st.integers(16, 20))
def test_the_baseline_keeps_any_shape(frames, stride, factor, size):
    x = torch.randint(256, (1, 3, frames, size, size + 1), dtype=torch.uint8)
    assert baseline(x, (stride, factor, factor)).shape == x.shape
    kept = math.ceil(frames / stride) * math.ceil(size / factor) * math.ceil((size + 1) / factor)
    assert kept_pixels(x, (stride, factor, factor)) == kept


def test_the_baseline_gets_worse_with_either_factor(clips):
    in_time = [compare(clips, baseline(clips, (f, 1, 1)))["psnr_clip"].mean().item() for f in (1, 2, 4, 8)]
    in_space = [compare(clips, baseline(clips, (1, f, f)))["psnr_clip"].mean().item() for f in (1, 2, 4, 8)]
    assert in_time == sorted(in_time, reverse=True)
    assert in_space == sorted(in_space, reverse=True)
    assert in_time[0] == in_space[0] == 100


def test_pairs_of_other_shapes_are_refused(clips):
    with pytest.raises(ValueError, match="differs in shape"):
        compare(clips, clips[:, :, :8])
