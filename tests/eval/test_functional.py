"""PSNR and SSIM of images and clips: known errors, and equality with torchmetrics."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchmetrics.functional.image import peak_signal_noise_ratio
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from smalti.eval.functional import PSNR_CEILING, full_precision, mean_over_frames, psnr, psnr_clip, ssim
from smalti.pixels import pixels_to_uint8, uint8_to_pixels

SSIM_ERROR = 65025 * 2**-23 / (0.03 * 255) ** 2
"""Error of the float32 SSIM: variances are differences of numbers near 255^2, divided by at least c2 = (0.03 * 255)^2."""


def test_every_level_survives_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(pixels_to_uint8(uint8_to_pixels(levels)), levels)
    assert torch.equal(pixels_to_uint8(uint8_to_pixels(levels).double()), levels)


@settings(deadline=None)
@given(st.floats(-3, 3, width=32))
def test_pixels_are_rounded_to_the_nearest_level(value):
    level = pixels_to_uint8(torch.tensor(value)).item()
    error = 255 * 2**-22  # two float32 operations on values up to 255
    assert abs(level - min(max((value + 1) * 127.5, 0), 255)) <= 0.5 + error


def test_rounding_does_not_truncate():
    assert pixels_to_uint8(torch.tensor([100.6, 100.4]) / 127.5 - 1).tolist() == [101, 100]


def test_psnr_of_known_errors():
    x = torch.full((3, 3, 16, 16), 100, dtype=torch.uint8)
    y = x.clone()
    y[0] += 1  # MSE 1
    y[1, :, :8] -= 10  # MSE 50; a negative difference must not wrap around
    assert_close(psnr(x, y), torch.tensor([20 * math.log10(255), 10 * math.log10(255**2 / 50), PSNR_CEILING]).double())


def test_psnr_of_known_errors_in_two_frames():
    x = torch.full((1, 3, 2, 16, 16), 100, dtype=torch.uint8)
    y = x.clone()
    y[:, :, 0] += 1  # MSE 1
    y[:, :, 1] += 3  # MSE 9
    assert mean_over_frames(psnr, x, y).item() == pytest.approx(20 * math.log10(255) - 10 * math.log10(9) / 2)
    assert psnr_clip(x, y).item() == pytest.approx(20 * math.log10(255) - 10 * math.log10(5))


def test_psnr_and_ssim_equal_torchmetrics_for_every_sample(photos, add_noise):
    restored = add_noise(photos, 0.1)
    for ours, theirs, tolerance in (
        (psnr, PeakSignalNoiseRatio(255.0), 1e-4),
        (ssim, StructuralSimilarityIndexMeasure(data_range=255.0), SSIM_ERROR),
    ):
        expected = torch.stack(
            [theirs(b[None].float(), a[None].float()) for a, b in zip(photos, restored, strict=True)]
        )
        assert_close(ours(photos, restored).float(), expected, rtol=0, atol=tolerance)


def test_clips_average_frames_or_their_errors(clips, add_noise):
    restored = clips.clone()
    restored[:, :, 3] = add_noise(clips[:, :, 3], 0.3)
    restored[:, :, 4:] = add_noise(clips[:, :, 4:], 0.05)
    per_frame = mean_over_frames(psnr, clips, restored)
    frames = [psnr(clips[:, :, t], restored[:, :, t]) for t in range(9)]
    assert_close(per_frame, torch.stack(frames).mean(0))
    similarity = [ssim(clips[:, :, t], restored[:, :, t]) for t in range(9)]
    assert_close(mean_over_frames(ssim, clips, restored), torch.stack(similarity).double().mean(0))
    per_clip = psnr_clip(clips, restored)
    expected = peak_signal_noise_ratio(
        clips.double(), restored.double(), data_range=255.0, reduction="none", dim=(1, 2, 3, 4)
    )
    assert_close(per_clip, expected)
    # Three identical frames raise the mean over frames by tens of dB, but reduce the error of the clip only by a third.
    assert (per_frame - per_clip > 15).all()


def test_an_image_is_a_clip_of_one_frame(photos, add_noise):
    restored = add_noise(photos, 0.1)
    for metric in (psnr, ssim):
        image, clip = (
            mean_over_frames(metric, x, y) for x, y in ((photos, restored), (photos[:, :, None], restored[:, :, None]))
        )
        assert_close(image, clip)
        assert_close(image, metric(photos, restored).double())
    assert_close(psnr_clip(photos[:, :, None], restored[:, :, None]), psnr(photos, restored))


def test_pairs_of_different_shapes_raise_an_error(clips):
    for metric in (psnr_clip, lambda x, y: mean_over_frames(psnr, x, y)):
        with pytest.raises(ValueError, match="differ in shape"):
            metric(clips, clips[:, :, :8])


def test_ssim_of_identical_and_of_constant_images(photos):
    assert_close(ssim(photos, photos), torch.ones(5))
    # Without variance only the luminance term remains: (2 m n + c1) / (m^2 + n^2 + c1), c1 = (0.01 * 255)^2.
    x, y = (torch.full((1, 3, 16, 16), v, dtype=torch.uint8) for v in (50, 200))
    c1 = 2.55**2
    assert_close(ssim(x, y).item(), (2 * 50 * 200 + c1) / (50**2 + 200**2 + c1), atol=SSIM_ERROR, rtol=0)


def test_metrics_decrease_with_noise(photos, add_noise):
    steps = [add_noise(photos, std) for std in (0.02, 0.05, 0.1, 0.2)]
    for metric in (psnr, ssim):
        curve = torch.stack([metric(photos, step) for step in steps])
        assert (curve.diff(dim=0) < 0).all()


def test_autocast_does_not_affect_ssim(photos, add_noise):
    restored = add_noise(photos, 0.1)
    expected = ssim(photos, restored)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(ssim(photos, restored), expected, rtol=0, atol=SSIM_ERROR)


def test_full_precision_restores_the_flags():
    with full_precision(torch.device("cpu")):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_pixels_of_two_kinds_raise_an_error(photos):
    with pytest.raises(ValueError, match="both uint8 or both floating point"):
        psnr(photos, photos.float())
