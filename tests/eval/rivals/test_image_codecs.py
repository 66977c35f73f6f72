"""Image codecs: bytes within the budget, files that decode to what is measured, and codecs that are not installed."""

import io

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from smalti.eval.rivals import build_rivals
from smalti.eval.rivals.base import MULTIPLES, resize, sample_psnr
from smalti.eval.rivals.image_codecs import AVIF, JPEG, WebP
from smalti.eval.rivals.measurement import SelectedSample, measure_rivals
from smalti.images import decode_image

CODECS = [JPEG(), WebP(), AVIF()]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("bits_per_pixel", [0.25, 1.5])
def test_no_budget_is_exceeded_and_more_bits_are_better(codec, bits_per_pixel, photos):
    for photo in photos[1:3, :, :48, :57]:
        bits = bits_per_pixel * 48 * 57
        approximations = codec.approximate(photo, bits)
        assert 1.0 in approximations
        for multiple, approximation in approximations.items():
            assert 0 < approximation.bits <= multiple * bits
            assert approximation.file_bits > approximation.bits
            assert approximation.sample.shape == photo.shape
            assert approximation.sample.dtype == torch.uint8
        assert approximations[1.0].bits > 0.8 * bits
        decibels = [sample_psnr(photo, approximations[m].sample) for m in sorted(MULTIPLES) if m in approximations]
        assert decibels == sorted(decibels)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_files_decode_to_what_is_measured(codec, photos):
    """The file of the highest quality that fits, decoded by the reader of this package, is the approximation."""
    photo, bits = photos[2], 2.0 * 64 * 64
    approximation = codec.approximate(photo, bits)[1.0]
    files = [codec.encode(photo, quality) for quality in range(codec.highest_quality + 1)]
    file = max((file for file in files if 8 * file.counted_bytes <= bits), key=lambda file: file.counted_bytes)
    assert (8 * len(file.data), 8 * file.counted_bytes) == (approximation.file_bits, approximation.bits)
    assert torch.equal(pil_to_tensor(decode_image(file.data)), approximation.sample)


def test_counted_bytes_leave_out_only_what_does_not_depend_on_the_content(photos):
    for codec in CODECS:
        overheads = {len(file.data) - file.counted_bytes for file in (codec.encode(photo, 40) for photo in photos)}
        # JPEG with standard Huffman tables, which are not counted, or with optimized ones, which are. RIFF pads to even.
        assert max(overheads) < 700
        if codec.name == "avif":
            assert len(overheads) == 1
    flat = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    assert JPEG().encode(flat, 50).counted_bytes < 80  # one bit per coefficient and block, without tables


def test_low_rates_use_a_reduced_resolution(photos):
    """A file of the full size with as few bytes is worse, or there is none."""
    photo = photos[0]
    approximation = JPEG().approximate(photo, 0.1 * 64 * 64)[1.0]
    assert approximation.bits <= 0.1 * 64 * 64
    with Image.open(io.BytesIO(JPEG().encode(photo, 0).data)) as image:
        assert sample_psnr(photo, approximation.sample) > sample_psnr(photo, pil_to_tensor(image)) or (
            8 * JPEG().encode(photo, 0).counted_bytes > 0.1 * 64 * 64
        )
    assert sample_psnr(photo, approximation.sample) > sample_psnr(photo, resize(resize(photo, [4, 4]), [64, 64]))


def test_color_profiles_are_not_written(photos):
    assert all(len(codec.encode(photos[0], 0).data) < 1500 for codec in CODECS)


def test_a_missing_codec_and_a_budget_that_is_too_small_are_stated(photos, monkeypatch):
    monkeypatch.setattr("PIL.features.check", lambda name: name != "avif")
    samples = [SelectedSample("photo", photos[0], 64.0)]
    tally = measure_rivals(build_rivals(["webp", "avif"]), samples, [], torch.device("cpu"))
    assert not tally.points
    assert "has no AVIF codec" in tally.obstacles["avif"]
    assert tally.obstacles["webp"] == (
        "it cannot code 'photo' (64 x 64) with as few as the 64 nominal bits of the tokenizer"
    )


def test_an_encoder_with_other_options_is_stated(monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("Invalid advanced option: tune")

    monkeypatch.setattr(Image.Image, "save", fail)
    assert "cannot write AVIF with these settings (Invalid advanced option: tune)" in AVIF().find_obstacle()
