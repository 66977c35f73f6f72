import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from smalti.eval.functional import PSNR_CEILING, bicubic, full_precision, psnr, ssim
from smalti.pixels import pixels_to_uint8, uint8_to_pixels


def noisy(photos, strength):
    generator = torch.Generator().manual_seed(0)
    return pixels_to_uint8(uint8_to_pixels(photos) + strength * torch.randn(photos.shape, generator=generator))


def test_every_level_survives_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(pixels_to_uint8(uint8_to_pixels(levels)), levels)
    assert torch.equal(pixels_to_uint8(uint8_to_pixels(levels).double()), levels)


@given(st.floats(-3, 3, width=32))
def test_rounding_is_to_the_nearest_level(value):
    level = pixels_to_uint8(torch.tensor(value)).item()
    assert abs(level - min(max((value + 1) * 127.5, 0), 255)) <= 0.5 + 1e-4


def test_rounding_does_not_truncate():
    assert pixels_to_uint8(torch.tensor([100.6, 100.4]) / 127.5 - 1).tolist() == [101, 100]


def test_psnr_of_known_errors():
    x = torch.full((3, 3, 16, 16), 100, dtype=torch.uint8)
    y = x.clone()
    y[0] += 1  # MSE 1
    y[1, :, :8] -= 10  # MSE 50; a difference below zero must not wrap around
    assert_close(psnr(x, y), torch.tensor([20 * math.log10(255), 10 * math.log10(255**2 / 50), PSNR_CEILING]).double())


def test_metrics_equal_torchmetrics_sample_by_sample(photos):
    restored = noisy(photos, 0.1)
    for ours, theirs in (
        (psnr, PeakSignalNoiseRatio(255.0)),
        (ssim, StructuralSimilarityIndexMeasure(data_range=255.0)),
    ):
        expected = torch.stack(
            [theirs(b[None].float(), a[None].float()) for a, b in zip(photos, restored, strict=True)]
        )
        assert_close(ours(photos, restored).float(), expected)


def test_ssim_of_equal_and_of_constant_images(photos):
    assert_close(ssim(photos, photos), torch.ones(5))
    # Without variance only the luminance term is left: (2 m n + c1) / (m^2 + n^2 + c1), c1 = (0.01 * 255)^2.
    x, y = (torch.full((1, 3, 16, 16), v, dtype=torch.uint8) for v in (50, 200))
    c1 = 2.55**2
    assert_close(ssim(x, y).item(), (2 * 50 * 200 + c1) / (50**2 + 200**2 + c1), atol=1e-4, rtol=0)


def test_metrics_fall_with_noise(photos):
    steps = [noisy(photos, s) for s in (0.02, 0.05, 0.1, 0.2)]
    for metric in (psnr, ssim):
        curve = torch.stack([metric(photos, step) for step in steps])
        assert (curve.diff(dim=0) < 0).all()


def test_autocast_does_not_reach_ssim(photos):
    restored = noisy(photos, 0.1)
    expected = ssim(photos, restored)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ssim(photos, restored), expected)


def test_full_precision_is_over_afterwards():
    with full_precision(torch.device("cpu")):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_floats_are_refused(photos):
    with pytest.raises(ValueError, match="uint8"):
        psnr(photos.float(), photos.float())


@pytest.mark.parametrize("size", [(64, 64), (33, 50)])
def test_the_baseline_keeps_size_and_gets_worse_with_the_factor(photos, size):
    images = photos[:, :, : size[0], : size[1]]
    restored = [bicubic(images, (f, f)) for f in (1, 2, 4, 8)]
    assert torch.equal(restored[0], images)
    means = [psnr(images, image).mean().item() for image in restored]
    assert means == sorted(means, reverse=True)
