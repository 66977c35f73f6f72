"""The linear codec and bicubic downsampling as rivals."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.eval.baseline import equal_bits_factor, make_baseline
from smalti.eval.linear_codec import LinearCodec
from smalti.eval.rivals import build_rivals, fit_linear_codecs, load_linear_codec, select_rivals
from smalti.eval.rivals.base import sample_psnr
from smalti.eval.rivals.bicubic import Bicubic
from smalti.pixels import uint8_to_pixels


@pytest.fixture(scope="module")
def pixels(photos):
    return uint8_to_pixels(photos)


def test_the_rate_is_that_of_the_tokenizer_and_more_bits_are_better(build_tokenizer, pixels, photos):
    rival = fit_linear_codecs([pixels[:3]], build_tokenizer(), "3 photos")
    assert rival.description.endswith("fitted on 3 photos")
    photo = photos[4, :, :61, :58]  # patches at the border are padded, like those of a tokenizer
    bits = 8.0 * 16 * 15
    found = rival.approximate(photo, bits)
    assert sorted(found) == [0.25, 0.5, 1.0, 2.0, 4.0]
    for multiple, approximation in found.items():
        assert 0.8 * multiple * bits < approximation.bits <= multiple * bits
    decibels = [sample_psnr(photo, found[multiple].sample) for multiple in sorted(found)]
    assert decibels == sorted(decibels)


def test_a_continuous_tokenizer_has_a_codec_with_its_channels(build_tokenizer, pixels, photos):
    rival = fit_linear_codecs([pixels], build_tokenizer(continuous=True), "photos")
    (approximation,) = rival.approximate(photos[0], 16.0 * 8 * 256).values()
    assert approximation.bits == 16 * 8 * 256
    assert rival.codecs[1.0].levels is None


def test_clips_are_cut_like_those_of_a_causal_tokenizer(video_tokenizer, clips):
    rival = fit_linear_codecs([uint8_to_pixels(clips[:, :, :5])], video_tokenizer, "clips")
    bits = video_tokenizer.quantizer.bits_per_position * 3 * 16 * 16
    assert rival.approximate(clips[0, :, :5], bits)[1.0].bits == pytest.approx(bits, rel=0.2)
    assert rival.approximate(clips[0, :, :5], bits)[1.0].bits <= bits


def test_a_file_must_fit_the_tokenizer(build_tokenizer, pixels, tmp_path):
    file = tmp_path / "linear_codec.safetensors"
    tokenizer = build_tokenizer()
    LinearCodec.fit([pixels], (1, 4, 4), bits=8).save(file)
    assert load_linear_codec(file, tokenizer, clips=False).codecs.keys() == {1.0}
    for stride, bits, message in (((1, 8, 8), 8, "8 x 8"), ((1, 4, 4), 16, "15.9. bits per 4 x 4")):
        LinearCodec.fit([pixels], stride, bits=bits).save(file)
        with pytest.raises(SmaltiError, match=message) as error:
            load_linear_codec(file, tokenizer, clips=False)
        assert "but the tokenizer has 8 bits per 4 x 4 pixels" in str(error.value)
    with pytest.raises(SmaltiError, match="8 channels"):
        load_linear_codec(file, build_tokenizer(continuous=True), clips=False)


def test_bicubic_is_the_baseline_at_several_rates(clips):
    found = Bicubic(2).approximate(clips[0], 24.0 * 5 * 256)
    factor = equal_bits_factor((9, 64, 64), 24.0 * 5 * 256, 2)
    assert torch.equal(found[1.0].sample, make_baseline(clips[:1], factor)[0])
    assert {multiple: approximation.bits / 24 for multiple, approximation in found.items()} == {
        multiple: pytest.approx(multiple * 5 * 256, rel=0.1) for multiple in (1.0, 0.5, 0.25, 2.0, 4.0)
    }


def test_names_select_rivals():
    assert select_rivals("all", "images") == ["linear_codec", "bicubic", "jpeg", "webp", "avif"]
    assert select_rivals("all", "clips") == ["linear_codec", "bicubic", "h264", "hevc"]
    assert select_rivals("none", "clips") == []
    assert select_rivals("webp, jpeg", "images") == ["jpeg", "webp"]
    with pytest.raises(SmaltiError, match="'jpeg' takes no clips"):
        select_rivals("jpeg", "clips")
    with pytest.raises(SmaltiError, match="'jpg' does not exist: use all, none, or names among linear_codec"):
        select_rivals("jpg", "images")
    assert [rival.name for rival in build_rivals(["linear_codec", "hevc"])] == ["linear_codec", "hevc"]
    assert "--linear-codec my/train" in build_rivals(["linear_codec"])[0].find_obstacle()
