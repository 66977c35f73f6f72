"""The baseline, on real photos and videos."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.eval.baseline import count_kept_pixels, downsample_and_upsample, equal_bits_factor, make_baseline
from smalti.eval.functional import psnr, psnr_clip


def test_an_image_is_a_clip_of_one_frame(photos):
    expected = downsample_and_upsample(photos, (4, 4))
    assert torch.equal(make_baseline(photos, (8, 4, 4)), expected)
    # The frame of the clip has the memory layout of the image, so that even the rounding is the same.
    assert torch.equal(make_baseline(photos[:, :, None], (8, 4, 4))[:, :, 0], expected)


@pytest.mark.parametrize("size", [(64, 64), (33, 50)])
def test_downsampling_and_upsampling_preserves_the_size_and_loses_quality_with_the_factor(photos, size):
    images = photos[:, :, : size[0], : size[1]]
    restored = [downsample_and_upsample(images, (f, f)) for f in (1, 2, 4, 8)]
    assert torch.equal(restored[0], images)
    means = [psnr(images, image).mean().item() for image in restored]
    assert means == sorted(means, reverse=True)


def test_dropped_frames_are_interpolated_linearly(clips):
    restored = make_baseline(clips, (4, 1, 1))
    assert torch.equal(restored[:, :, ::4], clips[:, :, ::4])
    rounding = 0.5 + 1e-3  # to 8 bits, and in float32
    middle = (clips[:, :, 0].float() + clips[:, :, 4].float()) / 2
    assert (restored[:, :, 2].float() - middle).abs().max() <= rounding
    quarter = clips[:, :, 4].float() * 0.75 + clips[:, :, 8].float() * 0.25
    assert (restored[:, :, 5].float() - quarter).abs().max() <= rounding


def test_the_last_kept_frame_is_repeated(clips):
    restored = make_baseline(clips[:, :, :8], (4, 1, 1))
    assert all(torch.equal(restored[:, :, t], clips[:, :, 4]) for t in range(4, 8))


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 12), stride=st.integers(1, 8), factor=st.integers(1, 5), size=st.integers(16, 20))
def test_any_shape_is_preserved(frames, stride, factor, size):
    x = torch.randint(256, (1, 3, frames, size, size + 1), dtype=torch.uint8)
    assert make_baseline(x, (stride, factor, factor)).shape == x.shape
    kept = math.ceil(frames / stride) * math.ceil(size / factor) * math.ceil((size + 1) / factor)
    assert count_kept_pixels(x, (stride, factor, factor)) == kept


def test_quality_decreases_with_either_factor(clips):
    in_time = [psnr_clip(clips, make_baseline(clips, (f, 1, 1))).mean().item() for f in (1, 2, 4, 8)]
    in_space = [psnr_clip(clips, make_baseline(clips, (1, f, f))).mean().item() for f in (1, 2, 4, 8)]
    assert in_time == sorted(in_time, reverse=True)
    assert in_space == sorted(in_space, reverse=True)
    assert in_time[0] == in_space[0] == 100


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(1, 33),
    stride=st.integers(1, 8),
    height=st.integers(16, 300),
    width=st.integers(16, 300),
    bits_per_pixel=st.floats(0.03, 30),
)
def test_the_factor_gives_the_bits_but_for_whole_rows_and_columns(frames, stride, height, width, bits_per_pixel):
    bits = bits_per_pixel * frames * height * width
    step, *spatial = equal_bits_factor((frames, height, width), bits, stride)
    kept = math.ceil(frames / step)
    rows, columns = (round(n / f) for n, f in zip((height, width), spatial, strict=True))
    samples = torch.empty(1, 3, frames, height, width, dtype=torch.uint8, device="meta")
    assert count_kept_pixels(samples, (step, *spatial)) == kept * rows * columns
    assert 1 <= step <= stride
    budget = min(max(bits / 24, kept), frames * height * width)
    assert abs(kept * rows * columns - budget) <= kept * (rows / 2 + 1)
    if step < stride and step < frames:  # even all pixels of fewer frames would not have used the bits
        assert math.ceil(frames / (step + 1)) * height * width * 24 <= bits + 1


def test_equal_bits_of_a_stride_give_that_stride(photos):
    factor = equal_bits_factor((1, 64, 64), 24 * 16 * 16, 8)
    assert factor == (1, 4, 4)
    assert equal_bits_factor((9, 64, 64), 24 * 5 * 16 * 16, 2) == (2, 4, 4)
    everything = equal_bits_factor((1, 64, 64), 10**9, 1)
    assert torch.equal(make_baseline(photos, everything), photos)
    assert make_baseline(photos, equal_bits_factor((1, 64, 64), 1, 1)).shape == photos.shape


def test_quality_grows_with_the_bits(photos):
    means = []
    for bits in (0.1, 0.3, 0.5, 1.0, 2.0, 6.0):
        factor = equal_bits_factor((1, 64, 64), bits * 64 * 64, 1)
        means.append(psnr(photos, make_baseline(photos, factor)).mean().item())
    assert means == sorted(means)
