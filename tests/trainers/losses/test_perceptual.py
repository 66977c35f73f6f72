"""The perceptual loss on real frames."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.pixels import frames_as_images
from smalti.trainers import PerceptualLoss

# Float32 distances below 1 from a network of about fifty layers, in two batch shapes: about 100 machine epsilons.
TOLERANCE = 1e-5


@pytest.fixture
def degraded(clip):
    """Return the clip with a contrast that decreases frame by frame."""
    return clip * torch.linspace(1, 0.3, 8).view(1, 1, 8, 1, 1)


@pytest.fixture
def frame_distances(clip, degraded):
    """Return the perceptual distance of each frame."""
    network = PerceptualLoss("efflite0")._networks[0]
    return network(frames_as_images(degraded), frames_as_images(clip))


def test_clips_are_compared_frame_by_frame(clip, degraded, frame_distances):
    assert float(PerceptualLoss("efflite0")(degraded, clip)) == pytest.approx(
        float(frame_distances.mean()), abs=TOLERANCE
    )


def test_training_compares_random_frames(clip, degraded, frame_distances):
    loss = PerceptualLoss("efflite0", frames_per_clip=1)
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        errors = (frame_distances - float(loss(degraded, clip))).abs()
        seen.add(int(errors.argmin()))
        assert errors.min() < TOLERANCE
    assert len(seen) > 2
    image = float(loss(degraded[:, :, 0], clip[:, :, 0]))
    assert image == pytest.approx(float(frame_distances[0]), abs=TOLERANCE)


def test_evaluation_compares_all_frames(clip, degraded, frame_distances):
    loss = PerceptualLoss("efflite0", frames_per_clip=1).eval()
    assert float(loss(degraded, clip)) == pytest.approx(float(frame_distances.mean()), abs=TOLERANCE)


def test_zero_frames_per_clip_are_refused():
    with pytest.raises(SmaltiError, match="at least 1"):
        PerceptualLoss("efflite0", frames_per_clip=0)


def test_a_network_that_is_not_available_is_never_replaced(no_network):
    with pytest.raises(SmaltiError) as caught:
        PerceptualLoss()
    for words in ("vgg16-397923af.pth", "https://", "SHA-256", "SMALTI_WEIGHTS", "network: st_lpips", "efflite0"):
        assert words in str(caught.value)


def test_shift_tolerant_lpips_is_a_loss(clip):
    reconstruction = (clip * 0.8).requires_grad_()
    PerceptualLoss("st_lpips", frames_per_clip=1)(reconstruction, clip).backward()
    assert reconstruction.grad.abs().sum() > 0
