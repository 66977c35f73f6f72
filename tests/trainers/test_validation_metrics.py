"""Validation metrics: means over samples and frames."""

import pytest
import torch

from smalti.eval.functional import psnr
from smalti.pixels import pixels_to_uint8
from smalti.trainers import PerceptualLoss
from smalti.trainers.losses.reconstruction import build_loss_dict
from smalti.trainers.validation_metrics import ValidationMetrics, sample_metrics


@pytest.fixture
def degraded(clip):
    """Return the clip with a contrast that decreases frame by frame."""
    return clip * torch.linspace(1, 0.5, 8).view(1, 1, 8, 1, 1)


def test_psnr_of_a_clip_is_the_mean_over_frames(clip, degraded):
    frames = zip(clip.unbind(2), degraded.unbind(2), strict=True)
    by_frame = [psnr(pixels_to_uint8(x), pixels_to_uint8(y)) for x, y in frames]
    torch.testing.assert_close(sample_metrics(degraded, clip)["psnr"], torch.stack(by_frame).mean(0))


def test_validation_is_the_mean_over_samples(training, trainer, data):
    """Four photos in batches of three: the last batch has one sample and a third of the weight of the first."""
    module = training(gan=False, weights={"l1": 1.0})
    # In float64, rounding practically never moves a latent across a quantizer's threshold.
    options = {"precision": "64-true"}
    results = [trainer(**options).validate(module, data(batch_size=size), verbose=False)[0] for size in (1, 3)]
    # The metrics themselves are computed in float32, from some thousand values per sample.
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert {"val/psnr", "val/l1", "val/mse", "val/codebook_used_0", "val/codebook_perplexity_1"} <= results[0].keys()


def test_perceptual_loss_is_the_mean_of_the_distances(training, trainer, data):
    loss = PerceptualLoss("efflite0")
    module = training(gan=False, weights={"l1": 1.0}, losses={"perceptual": loss})
    photos = data(batch_size=3)
    result = trainer().validate(module, photos, verbose=False)[0]
    module.eval()
    with torch.inference_mode():
        distances = torch.cat([loss._networks[0](module(b.pixels), b.pixels) for b in photos.val_dataloader()])
    assert len(distances) == 4
    assert result["val/perceptual"] == pytest.approx(float(distances.double().mean()), rel=1e-5)


def test_a_loss_of_the_recipe_is_weighted_by_samples(clip, degraded, toy_loss):
    """With batches of 5 and 3 images, the mean over samples is not the mean over batches."""
    losses = build_loss_dict({"features": toy_loss()})
    x, y = (v[0].transpose(0, 1) for v in (clip, degraded))
    metrics = ValidationMetrics()
    for part in (slice(0, 5), slice(5, 8)):
        metrics.update(sample_metrics(y[part], x[part], losses), None)
    by_sample = [float(losses["features"](y[[i]], x[[i]])) for i in range(8)]
    # Means of a few thousand float32 values below 4, summed in two orders.
    assert metrics.compute(None)["features"] == pytest.approx(sum(by_sample) / 8, rel=1e-5)


def test_there_are_no_metrics_without_samples():
    assert ValidationMetrics().compute(16) == {}
