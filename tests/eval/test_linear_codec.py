"""The linear codec: rates, quality on real photos, files, clips, and equality over processes."""

import math

import pytest
import torch

from smalti.data import EvaluationTransform, Photos, TrainingTransform
from smalti.errors import SmaltiError
from smalti.eval.functional import psnr
from smalti.eval.linear_codec import LinearCodec
from smalti.pixels import pixels_to_uint8


@pytest.fixture(scope="module")
def training_crops():
    photos, transform = Photos("train"), TrainingTransform(32, scale=(0.06, 0.6))
    torch.manual_seed(0)
    crops = [transform(photos[i % len(photos)]) for i in range(96)]
    return torch.stack(crops).float() / 127.5 - 1 if crops[0].dtype == torch.uint8 else torch.stack(crops)


@pytest.fixture(scope="module")
def validation_photos():
    photos, transform = Photos("validation"), EvaluationTransform(resize=64, crop=64)
    return torch.stack([transform(photos[i]) for i in range(len(photos))])


def mean_psnr(codec, pixels):
    return psnr(pixels_to_uint8(pixels), pixels_to_uint8(codec.reconstruct(pixels))).mean().item()


def test_more_bits_reconstruct_better_and_never_exceed_the_budget(training_crops, validation_photos):
    codecs = [LinearCodec.fit([training_crops], (1, 8, 8), bits=bits) for bits in (8, 32, 64)]
    for codec, bits in zip(codecs, (8, 32, 64), strict=True):
        assert bits - 1 < codec.bits_per_position <= bits
    values = [mean_psnr(codec, validation_photos) for codec in codecs]
    assert values == sorted(values)
    gray = psnr(pixels_to_uint8(validation_photos), pixels_to_uint8(torch.zeros_like(validation_photos))).mean().item()
    assert values[0] > gray + 3


def test_all_components_reconstruct_exactly(training_crops, validation_photos):
    codec = LinearCodec.fit([training_crops.double()], (1, 4, 4), channels=48)
    assert codec.bits_per_position is None
    restored = codec.reconstruct(validation_photos.double())
    torch.testing.assert_close(restored, validation_photos.double(), rtol=0, atol=1e-9)


def test_sizes_that_are_no_multiple_of_the_stride(training_crops):
    codec = LinearCodec.fit([training_crops], (1, 8, 8), bits=64)
    pixels = training_crops[:2, :, :29, :27]
    assert codec.reconstruct(pixels).shape == pixels.shape


def test_large_patches_are_reduced_in_two_steps_without_loss_of_what_remains():
    # Data of rank 3 that is smooth in small patches: both steps keep everything.
    torch.manual_seed(0)
    basis = torch.randn(3, 3 * 8 * 4 * 4)
    clips = (torch.randn(40, 3) @ basis).view(40, 3, 8, 4, 4).repeat_interleave(8, 3).repeat_interleave(8, 4)
    pixels = torch.cat([clips[:, :, :1] * 0, clips], dim=2)  # patch 0 contains frame 0 alone
    codec = LinearCodec.fit([pixels], (8, 32, 32), channels=4)
    restored = codec.reconstruct(pixels)
    error = (restored - pixels).square().mean() / pixels.square().mean()
    assert error < 1e-8  # float32 rounding of sums over 24,576 values
    directions = codec.components.directions
    torch.testing.assert_close(directions @ directions.T, torch.eye(4), rtol=0, atol=1e-4)


def test_saved_and_loaded_codecs_are_equal(training_crops, validation_photos, tmp_path):
    codec = LinearCodec.fit([training_crops], (1, 8, 8), bits=24)
    codec.save(tmp_path / "codec.safetensors")
    loaded = LinearCodec.load(tmp_path / "codec.safetensors")
    assert math.isclose(loaded.bits_per_position, codec.bits_per_position)
    assert torch.equal(loaded.reconstruct(validation_photos), codec.reconstruct(validation_photos))


def test_bad_input_is_one_sentence(training_crops, tmp_path):
    with pytest.raises(SmaltiError, match="either bits or channels"):
        LinearCodec.fit([training_crops], (1, 8, 8))
    with pytest.raises(SmaltiError, match="at least one batch"):
        LinearCodec.fit([], (1, 8, 8), bits=8)
    (tmp_path / "file").write_bytes(b"no codec")
    with pytest.raises(SmaltiError, match="not a linear codec"):
        LinearCodec.load(tmp_path / "file")
