"""The PSNR loss is the negative PSNR of the report, and treats samples alike."""

import pytest
import torch

from smalti.eval.functional import psnr
from smalti.pixels import pixels_to_uint8
from smalti.trainers import PSNRLoss


def test_it_is_the_negative_psnr(clip):
    noisy = (clip + 0.1 * torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    image, noisy = clip[:, :, 0], noisy[:, :, 0]
    expected = -psnr(pixels_to_uint8(image), pixels_to_uint8(noisy)).mean() / 10
    assert float(PSNRLoss()(noisy, image)) == pytest.approx(float(expected), abs=0.01)  # rounding to 8 bits


def test_samples_count_the_same_whatever_their_error(clip):
    original = clip[:1].repeat(2, 1, 1, 1, 1)
    error = torch.stack([0.3 * torch.ones_like(clip[0]), 0.01 * torch.ones_like(clip[0])]).requires_grad_()
    PSNRLoss(limit=100.0)(original + error, original).backward()
    relative = (error.grad * error.detach()).flatten(1).sum(1)
    assert float(relative[1] / relative[0]) == pytest.approx(1, rel=1e-3)


def test_the_limit_ends_the_gain(clip):
    assert float(PSNRLoss(limit=50.0)(clip, clip)) == pytest.approx(-5.0)
    x = clip.clone().requires_grad_()
    PSNRLoss()(x, clip).backward()
    assert x.grad.isfinite().all()


def test_autocast_does_not_reduce_precision(clip):
    with torch.autocast("cpu", torch.bfloat16):
        half = PSNRLoss()(clip, clip + 0.1)
    assert half == PSNRLoss()(clip, clip + 0.1)
