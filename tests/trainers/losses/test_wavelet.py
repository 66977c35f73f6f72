"""The wavelet loss on real frames."""

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import MissingExtraError, SmaltiError
from smalti.trainers import WaveletLoss
from smalti.trainers.losses.wavelet import BANDS, haar_bands


def test_equal_clips_have_zero_loss(clip):
    assert WaveletLoss()(clip, clip) == 0
    assert WaveletLoss()(clip + 0.1, clip) > 0


def test_bands_are_haar_filters(clip):
    """They equal averages and differences of neighbors along each axis, computed in float64."""
    clip = clip.double()
    expected = clip
    for axis, kind in zip((2, 3, 4), "dad", strict=True):
        first, second = expected.unfold(axis, 2, 2).unbind(-1)
        expected = (first + second if kind == "a" else first - second) / 2**0.5
    assert expected.shape[2] == 4
    torch.testing.assert_close(haar_bands(clip)["dad"].abs(), expected.abs())
    energy = sum(band.square().sum() for band in haar_bands(clip).values())
    torch.testing.assert_close(energy, clip.square().sum())


def test_lost_detail_costs_more_than_a_shift_of_brightness(clip):
    """Lost detail and lost motion cost more than a shift of brightness with the same mean absolute error."""
    loss = WaveletLoss()
    blurred = F.avg_pool3d(clip, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)
    smeared = F.avg_pool3d(clip, (3, 1, 1), stride=1, padding=(1, 0, 0), count_include_pad=False)
    for degraded in (blurred, smeared):
        shifted = clip + F.l1_loss(degraded, clip)
        assert F.l1_loss(shifted, clip) == pytest.approx(float(F.l1_loss(degraded, clip)), rel=1e-4)
        assert loss(degraded, clip) > 1.5 * loss(shifted, clip)


def test_bands_have_weights(clip):
    shifted = clip + 0.1  # an error in the lowest band only
    assert WaveletLoss({"aaa": 0.0})(shifted, clip) == pytest.approx(0, abs=1e-6)
    assert WaveletLoss({"aaa": 3.0})(shifted, clip) == pytest.approx(3 * float(WaveletLoss()(shifted, clip)), rel=1e-4)
    with pytest.raises(SmaltiError, match="'add0'"):
        WaveletLoss({"add0": 1.0})


@pytest.mark.parametrize("size", [(1, 8, 8), (5, 7, 9), (2, 1, 1)])
def test_odd_sizes_repeat_their_last_element(clip, size):
    x = clip[:, :, : size[0], : size[1], : size[2]].double()
    even = F.pad(x, (0, size[2] % 2, 0, size[1] % 2, 0, size[0] % 2), mode="replicate")
    for name in BANDS:
        torch.testing.assert_close(haar_bands(x)[name], haar_bands(even)[name])
    reconstruction = x.clone().requires_grad_()
    WaveletLoss()(reconstruction, x + 0.1).backward()
    assert reconstruction.grad.isfinite().all()


def test_an_image_is_a_still_clip(clip):
    image = clip[:, :, 0]
    # Differences of equal numbers below 4: a few machine epsilons.
    assert haar_bands(image)["daa"].abs().max() < 16 * torch.finfo(torch.float32).eps
    assert WaveletLoss()(image, image + 0.1) == WaveletLoss()(image[:, :, None], image[:, :, None] + 0.1)


def test_autocast_does_not_reduce_precision(clip):
    with torch.autocast("cpu", torch.bfloat16):
        half = WaveletLoss()(clip, clip + 0.1)
    assert half == WaveletLoss()(clip, clip + 0.1)


def test_missing_ptwt_is_a_one_sentence_error(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ptwt", None)
    with pytest.raises(MissingExtraError, match=r"\.\[wavelets\]"):
        WaveletLoss()
