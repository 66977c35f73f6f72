"""Evaluation on clips: real videos, a video tokenizer with two latent grids, and an image tokenizer frame by frame."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from smalti.errors import SmaltiError
from smalti.eval import examples as module
from smalti.eval.evaluate import evaluate
from smalti.eval.feature_networks.frechet import FrechetNetwork
from smalti.eval.metrics import PSNR, SSIM, FrechetDistance, PerceptualDistance, PSNRClip
from smalti.pixels import pixels_to_uint8
from smalti.types import Batch

# See test_evaluate.py.
TOLERANCE = 65025 * 2**-23 / (0.03 * 255) ** 2


class MeanColor(FrechetNetwork):
    """The mean color of a clip: a fast network that needs three frames."""

    metric, comparable, definition, provenance = "mean_color", False, "mean colors", {}
    dim, min_frames = 3, 3

    def features(self, samples):
        return samples.float().mean((2, 3, 4))


def pixel_metrics():
    return [PSNR(), PSNRClip(), SSIM()]


def values(results):
    return {name: result.value for name, result in results.items()}


def test_a_video_tokenizer_is_measured_by_all_metrics(video_tokenizer, clip_batches, perceptual_proxy, motion_proxy):
    done = []
    metrics = [*pixel_metrics(), PerceptualDistance(perceptual_proxy), FrechetDistance(motion_proxy)]
    result = evaluate(video_tokenizer, clip_batches(frames=5), metrics, progress=done.append)
    names = ["psnr", "psnr_clip", "ssim", "perceptual_efflite0", "fvd_efflite0"]
    assert list(result.metrics) == list(result.baseline) == names
    assert [metric.comparable for metric in result.metrics.values()] == [True, True, True, False, False]
    assert result.clips
    assert result.baseline_bits_per_pixel == pytest.approx(result.bits_per_pixel, rel=0.04)
    assert done == [2, 4]
    assert result.left_out == {}
    # An untrained tokenizer is worse than every second frame, downsampled, by every metric.
    better = [result.baseline[n].value > result.metrics[n].value for n in names[:3]]
    better += [result.baseline[n].value < result.metrics[n].value for n in names[3:]]
    assert all(better)


def test_bits_per_pixel_include_all_grids(video_tokenizer, clip_batches):
    """The first frame has a separate grid, with twice the rows and columns."""
    result = evaluate(video_tokenizer, clip_batches(frames=9), [PSNR()])
    assert result.codebook is not None
    positions = 32 * 32 + 4 * 16 * 16
    assert [group.tokens for group in result.codebook.groups] == [4 * positions] * 2
    assert result.codebook.bits_per_pixel == pytest.approx(8 * positions / (9 * 64 * 64))
    assert result.codebook.bits_per_pixel > video_tokenizer.bits_per_pixel
    assert result.codebook.compression_ratio == pytest.approx(24 / result.codebook.bits_per_pixel)
    assert result.bits_per_pixel == result.codebook.bits_per_pixel
    assert result.baseline_bits_per_pixel == pytest.approx(24 * 5 * 12 * 11 / (9 * 64 * 64))


def test_padding_is_not_measured(video_tokenizer, clip_batches):
    """The tokenizer pads 8 frames to 9 and 63 rows to 64. Only the original frames and rows are measured."""
    (batch,) = clip_batches(batch_size=4, frames=8)
    batch = Batch(batch.pixels[..., :63, :], batch.names)
    result = evaluate(video_tokenizer, [batch], pixel_metrics())
    assert result.codebook is not None
    assert all(example.reconstruction.shape == (3, 8, 63, 64) for example in result.examples)
    assert result.codebook.bits_per_pixel == pytest.approx(8 * (32 * 32 + 4 * 16 * 16) / (8 * 63 * 64))
    with torch.no_grad():
        restored = pixels_to_uint8(video_tokenizer.eval()(batch.pixels)[0])
    error = (restored.double() - pixels_to_uint8(batch.pixels).double()).square().mean((1, 2, 3, 4))
    expected = dict(zip(batch.names, (10 * (255**2 / error).log10()).tolist(), strict=True))
    assert {name: v["psnr_clip"] for name, v in result.samples.items()} == pytest.approx(expected)


def test_an_image_tokenizer_processes_frames_separately(build_tokenizer, clip_batches):
    """The PSNR and SSIM of a clip are the means over its frames as images."""
    tokenizer = build_tokenizer().double()
    (batch,) = clip_batches(batch_size=4, frames=3)
    clips = evaluate(tokenizer, [batch], pixel_metrics())
    frames = [
        Batch(batch.pixels[:, :, t], [f"{name} {t}" for name in batch.names]) for t in range(batch.pixels.shape[2])
    ]
    images = evaluate(tokenizer, frames, [PSNR(), SSIM()])
    for metric in ("psnr", "ssim"):
        assert clips.metrics[metric].value == pytest.approx(images.metrics[metric].value, abs=TOLERANCE)
        assert clips.baseline[metric].value == pytest.approx(images.baseline[metric].value, abs=TOLERANCE)
    assert clips.codebook is not None
    assert images.codebook is not None
    assert clips.codebook.groups == images.codebook.groups


def test_results_do_not_depend_on_the_batch_size(build_tokenizer, clip_batches):
    metrics = [*pixel_metrics(), FrechetDistance(MeanColor())]
    one, four = (
        evaluate(build_tokenizer(generative=True).double(), clip_batches(batch_size=n, frames=3), metrics, seed=1)
        for n in (1, 4)
    )
    assert_close(values(one.metrics), values(four.metrics), rtol=TOLERANCE, atol=TOLERANCE)
    assert_close(one.samples, four.samples, rtol=TOLERANCE, atol=TOLERANCE)


def test_clips_with_too_few_frames_are_left_out(build_tokenizer, clip_batches):
    short, long = clip_batches(frames=2), clip_batches(frames=3)
    mixed = [short[0], Batch(long[1].pixels, ["a", "b"])]
    metrics = [*pixel_metrics(), FrechetDistance(MeanColor())]
    result = evaluate(build_tokenizer(), mixed, metrics)
    assert result.metrics["mean_color"].note is not None
    assert "from 2 samples" in result.metrics["mean_color"].note
    assert "2 more have fewer than 3 frames" in result.metrics["mean_color"].note
    alone = evaluate(build_tokenizer(), mixed[1:], metrics)
    assert result.metrics["mean_color"].value == pytest.approx(alone.metrics["mean_color"].value)
    none = evaluate(build_tokenizer(), short, metrics)
    assert "mean_color" not in none.metrics
    assert none.left_out["mean_color"] == "it needs at least 2 samples with at least 3 frames, but the dataset has 0"


def test_images_and_clips_must_not_be_mixed(build_tokenizer, photo_batches, clip_batches, image_proxy):
    with pytest.raises(SmaltiError, match="images and clips"):
        evaluate(build_tokenizer(), [*photo_batches(), *clip_batches(frames=2)], [PSNR()])
    with pytest.raises(SmaltiError, match="fd_efflite0 is a metric of images"):
        evaluate(build_tokenizer(), clip_batches(frames=2), [FrechetDistance(image_proxy)])
    with pytest.raises(SmaltiError, match="mean_color is a metric of clips"):
        evaluate(build_tokenizer(), photo_batches(), [FrechetDistance(MeanColor())])


def test_examples_of_long_clips_are_truncated(build_tokenizer, clip_batches, monkeypatch):
    monkeypatch.setattr(module, "MAX_FRAMES", 2)
    result = evaluate(build_tokenizer(), clip_batches(frames=3), [PSNR()], num_examples=1)
    (example,) = result.examples
    assert example.original.shape == example.reconstruction.shape == (3, 2, 64, 64)
    assert example.original.untyped_storage().nbytes() == example.original.numel()  # other frames are not in memory


def test_perceptual_networks_process_one_frame_at_a_time(build_tokenizer, perceptual_proxy):
    """Their memory does not grow with the length of a clip."""
    sizes = []
    handle = nn.modules.module.register_module_forward_pre_hook(
        lambda layer, inputs: sizes.append(len(inputs[0])) if isinstance(layer, type(perceptual_proxy)) else None
    )
    try:
        batches = [Batch(torch.zeros(2, 3, 7, 16, 16), ["a", "b"])]
        evaluate(build_tokenizer(), batches, [PerceptualDistance(perceptual_proxy)])
    finally:
        handle.remove()
    assert sizes == [2] * 14  # seven frames of two clips, of the reconstruction and of the baseline


def test_several_frechet_networks_see_the_originals_once(build_tokenizer, clip_batches, motion_proxy):
    seen = []

    class Recorder(MeanColor):
        def features(self, samples):
            seen.append(samples)
            return super().features(samples)

    batches = clip_batches(batch_size=4, frames=3)
    metrics = [FrechetDistance(Recorder()), FrechetDistance(motion_proxy)]
    both = evaluate(build_tokenizer(), batches, metrics)
    assert list(both.metrics) == list(both.baseline) == ["mean_color", "fvd_efflite0"]
    assert len(seen) == 3  # originals, reconstructions, baseline
    assert torch.equal(seen[0], pixels_to_uint8(batches[0].pixels))
    for metric in metrics:
        alone = evaluate(build_tokenizer(), batches, [metric])
        assert alone.metrics[metric.name].value == pytest.approx(both.metrics[metric.name].value, rel=1e-5)
        assert alone.baseline[metric.name].value == pytest.approx(both.baseline[metric.name].value, rel=1e-5)
