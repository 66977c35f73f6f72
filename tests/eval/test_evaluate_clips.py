"""The same evaluation on clips: real videos, a video tokenizer with two grids, and an image tokenizer frame by frame."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from smalti.errors import SmaltiError
from smalti.eval import evaluate as module
from smalti.eval.evaluate import evaluate
from smalti.eval.feature_networks.frechet import FrechetNetwork
from smalti.pixels import pixels_to_uint8
from smalti.types import Batch


class Means(FrechetNetwork):
    """Colour of a clip; quick, and wants three frames."""

    metric, comparable, provenance = "means", False, {}
    dim, least_frames = 3, 3

    def features(self, samples):
        return samples.float().mean((2, 3, 4))


def values(metrics):
    return {name: metric.value for name, metric in metrics.items()}


def test_clips_of_a_video_tokenizer(video_tokenizer, clip_batches_of, stand_ins, motion):
    done = []
    batches = clip_batches_of(frames=5)
    result = evaluate(video_tokenizer, batches, perceptual=stand_ins[0], features=motion, progress=done.append)
    names = ["psnr", "psnr_clip", "ssim", "perceptual_efflite0", "fvd_efflite0"]
    assert list(result.metrics) == list(result.baseline) == names
    assert [metric.comparable for metric in result.metrics.values()] == [True, True, True, False, False]
    assert result.clips
    assert result.factor == (2, 4, 4)
    assert done == [2, 4]
    assert result.left_out == {}
    # An untrained tokenizer is worse than every second frame of a thumbnail, by every one of them.
    better = [result.baseline[n].value > result.metrics[n].value for n in names[:3]]
    better += [result.baseline[n].value < result.metrics[n].value for n in names[3:]]
    assert all(better)


def test_bits_are_those_of_all_grids(video_tokenizer, clip_batches_of):
    """The first frame has a grid of its own, of twice the rows and columns."""
    result = evaluate(video_tokenizer, clip_batches_of(frames=9))
    assert result.codebook is not None
    positions = 32 * 32 + 4 * 16 * 16
    assert [group.tokens for group in result.codebook.groups] == [4 * positions] * 2
    assert result.codebook.bits_per_pixel == pytest.approx(8 * positions / (9 * 64 * 64))
    assert result.codebook.bits_per_pixel > video_tokenizer.bits_per_pixel
    assert result.codebook.compression_ratio == pytest.approx(24 / result.codebook.bits_per_pixel)
    assert result.baseline_bits_per_pixel == pytest.approx(24 * 5 * 16 * 16 / (9 * 64 * 64))


def test_padding_is_never_counted(video_tokenizer, clip_batches_of):
    """Of 8 frames the tokenizer makes 9, of 63 rows 64: only what was there is measured."""
    (batch,) = clip_batches_of(batch=4, frames=8)
    batch = Batch(batch.pixels[..., :63, :], batch.names)
    result = evaluate(video_tokenizer, [batch])
    assert result.codebook is not None
    assert all(example.reconstruction.shape == (3, 8, 63, 64) for example in result.examples)
    assert result.codebook.bits_per_pixel == pytest.approx(8 * (32 * 32 + 4 * 16 * 16) / (8 * 63 * 64))
    with torch.no_grad():
        restored = pixels_to_uint8(video_tokenizer.eval()(batch.pixels)[0])
    error = (restored.double() - pixels_to_uint8(batch.pixels).double()).square().mean((1, 2, 3, 4))
    expected = dict(zip(batch.names, (10 * (255**2 / error).log10()).tolist(), strict=True))
    assert {name: v["psnr_clip"] for name, v in result.samples.items()} == pytest.approx(expected)


def test_an_image_tokenizer_codes_frame_by_frame(tokenizer_of, clip_batches_of):
    """So a clip's PSNR is the mean of what its frames get as images."""
    tokenizer = tokenizer_of()
    (batch,) = clip_batches_of(batch=4, frames=3)
    clips = evaluate(tokenizer, [batch])
    frames = [
        Batch(batch.pixels[:, :, t], [f"{name} {t}" for name in batch.names]) for t in range(batch.pixels.shape[2])
    ]
    images = evaluate(tokenizer, frames)
    assert "psnr_clip" not in images.metrics
    for metric in ("psnr", "ssim"):
        assert clips.metrics[metric].value == pytest.approx(images.metrics[metric].value)
        assert clips.baseline[metric].value == pytest.approx(images.baseline[metric].value)
    assert clips.codebook is not None
    assert images.codebook is not None
    assert clips.codebook.groups == images.codebook.groups


def test_batch_size_does_not_change_the_numbers(tokenizer_of, clip_batches_of):
    one, four = (
        evaluate(tokenizer_of(generative=True), clip_batches_of(batch=n, frames=3), seed=1, features=Means())
        for n in (1, 4)
    )
    assert_close(values(one.metrics), values(four.metrics), rtol=1e-5, atol=1e-6)
    assert_close(one.samples, four.samples, rtol=1e-5, atol=1e-6)


def test_clips_that_are_too_short_for_the_features_are_left_out(tokenizer_of, clip_batches_of):
    short, long = clip_batches_of(frames=2), clip_batches_of(frames=3)
    mixed = [short[0], Batch(long[1].pixels, ["a", "b"])]
    result = evaluate(tokenizer_of(), mixed, features=Means())
    assert result.metrics["means"].note is not None
    assert "of 2 samples" in result.metrics["means"].note
    assert "2 more have fewer than 3 frames" in result.metrics["means"].note
    alone = evaluate(tokenizer_of(), mixed[1:], features=Means())
    assert result.metrics["means"].value == alone.metrics["means"].value
    none = evaluate(tokenizer_of(), short, features=Means())
    assert "means" not in none.metrics
    assert none.left_out["means"] == "a covariance needs two samples or more, and there were none with 3 frames or more"
    assert evaluate(tokenizer_of(), short).left_out["rfvd"] == "no feature network was given"


def test_images_and_clips_do_not_mix(tokenizer_of, batches_of, clip_batches_of, stand_ins):
    with pytest.raises(SmaltiError, match="images and clips"):
        evaluate(tokenizer_of(), [*batches_of(), *clip_batches_of(frames=2)])
    with pytest.raises(SmaltiError, match="fd_efflite0 is a metric of images"):
        evaluate(tokenizer_of(), clip_batches_of(frames=2), features=stand_ins[1])
    with pytest.raises(SmaltiError, match="means is a metric of clips"):
        evaluate(tokenizer_of(), batches_of(), features=Means())


def test_examples_of_long_clips_are_cut(tokenizer_of, clip_batches_of, monkeypatch):
    monkeypatch.setattr(module, "EXAMPLE_FRAMES", 2)
    result = evaluate(tokenizer_of(), clip_batches_of(frames=3), keep=1)
    (example,) = result.examples
    assert example.original.shape == example.reconstruction.shape == (3, 2, 64, 64)
    assert example.original.untyped_storage().nbytes() == example.original.numel()  # the rest is not kept in memory


def test_metrics_see_a_frame_at_a_time(tokenizer_of, stand_ins):
    """So that their memory does not grow with the clip."""
    sizes = []
    handle = nn.modules.module.register_module_forward_pre_hook(
        lambda layer, inputs: sizes.append(len(inputs[0])) if isinstance(layer, type(stand_ins[0])) else None
    )
    try:
        evaluate(tokenizer_of(), [Batch(torch.zeros(2, 3, 7, 16, 16), ["a", "b"])], perceptual=stand_ins[0])
    finally:
        handle.remove()
    assert sizes == [2] * 14  # seven frames of both clips, reconstructed and reduced
