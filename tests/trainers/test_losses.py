"""What the losses weigh, on real frames."""

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import MissingExtraError, SmaltiError
from smalti.pixels import frames_as_images
from smalti.trainers import PerceptualLoss, WaveletLoss
from smalti.trainers.losses.terms import reconstruction_terms
from smalti.trainers.losses.wavelet import BANDS, bands


def test_equal_clips_cost_nothing(clip):
    assert WaveletLoss()(clip, clip) == 0
    assert WaveletLoss()(clip, clip + 0.1) > 0


def test_each_band_is_a_haar_filter(clip):
    """Means and differences of neighbours along each axis, by hand."""
    low = {axis: clip.unfold(axis, 2, 2).sum(-1) / 2**0.5 for axis in (2, 3, 4)}
    assert low[2].shape[2] == 4
    expected = clip
    for axis, kind in zip((2, 3, 4), "dad", strict=True):
        first, second = expected.unfold(axis, 2, 2).unbind(-1)
        expected = (first + second if kind == "a" else first - second) / 2**0.5
    torch.testing.assert_close(bands(clip)["dad"].abs(), expected.abs())
    energy = sum(band.square().sum() for band in bands(clip).values())
    torch.testing.assert_close(energy, clip.square().sum())


def test_lost_detail_costs_more_than_a_shift_of_brightness(clip):
    """Of the same mean absolute error; and lost motion likewise."""
    loss = WaveletLoss()
    blurred = F.avg_pool3d(clip, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)
    smeared = F.avg_pool3d(clip, (3, 1, 1), stride=1, padding=(1, 0, 0), count_include_pad=False)
    for spoiled in (blurred, smeared):
        shifted = clip + F.l1_loss(spoiled, clip)
        assert F.l1_loss(shifted, clip) == pytest.approx(float(F.l1_loss(spoiled, clip)), rel=1e-4)
        assert loss(spoiled, clip) > 1.5 * loss(shifted, clip)


def test_bands_have_weights(clip):
    shifted = clip + 0.1  # all in the lowest band
    assert WaveletLoss({"aaa": 0.0})(shifted, clip) == pytest.approx(0, abs=1e-6)
    assert WaveletLoss({"aaa": 3.0})(shifted, clip) == pytest.approx(3 * float(WaveletLoss()(shifted, clip)), rel=1e-4)
    with pytest.raises(SmaltiError, match="'add0'"):
        WaveletLoss({"add0": 1.0})


@pytest.mark.parametrize("size", [(1, 8, 8), (5, 7, 9), (2, 1, 1)])
def test_odd_sizes_repeat_their_last_element(clip, size):
    x = clip[:, :, : size[0], : size[1], : size[2]]
    even = F.pad(x, (0, size[2] % 2, 0, size[1] % 2, 0, size[0] % 2), mode="replicate")
    for name in BANDS:
        torch.testing.assert_close(bands(x)[name], bands(even)[name])
    y = x.clone().requires_grad_()
    WaveletLoss()(y, x + 0.1).backward()
    assert y.grad.isfinite().all()


def test_an_image_is_a_still_clip(clip):
    image = clip[:, :, 0]
    assert bands(image)["daa"].abs().max() < 1e-6
    assert WaveletLoss()(image, image + 0.1) == WaveletLoss()(image[:, :, None], image[:, :, None] + 0.1)


def test_wavelets_stay_in_full_precision(clip):
    with torch.autocast("cpu", torch.bfloat16):
        half = WaveletLoss()(clip, clip + 0.1)
    assert half == WaveletLoss()(clip, clip + 0.1)


def test_missing_ptwt_is_a_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ptwt", None)
    with pytest.raises(MissingExtraError, match=r"smalti\[wavelets\]"):
        WaveletLoss()


def test_terms_have_the_wavelets(clip):
    terms = reconstruction_terms(clip, clip * 0.9, wavelet=WaveletLoss())
    assert terms.keys() == {"l1", "mse", "wavelet"}


def test_perceptual_loss_looks_at_some_frames(clip):
    spoiled = clip * torch.linspace(1, 0.3, 8).view(1, 1, 8, 1, 1)
    whole, some = PerceptualLoss("efflite0"), PerceptualLoss("efflite0", frames_per_clip=1)
    by_frame = whole.distances(frames_as_images(clip), frames_as_images(spoiled))
    torch.testing.assert_close(whole(clip, spoiled), by_frame.mean())
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        distance = float(some(clip, spoiled))
        seen.add(int((by_frame - distance).abs().argmin()))
        assert (by_frame - distance).abs().min() < 1e-5
    assert len(seen) > 2
    assert some(clip[:, :, 0], spoiled[:, :, 0]) == pytest.approx(float(by_frame[0]), abs=1e-5)
    with pytest.raises(SmaltiError, match="at least 1"):
        PerceptualLoss("efflite0", frames_per_clip=0)
