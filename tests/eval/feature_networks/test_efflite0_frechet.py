"""The proxy for I3D sees appearance and motion. The proxy for Inception is tested with the perceptual one."""

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.selection import frechet_network
from smalti.eval.frechet import FeatureStatistics, frechet_distance
from smalti.pixels import frames_as_images, pixels_to_uint8, uint8_to_pixels


def distance(a, b):
    """Return the Fréchet distance between two sets of features."""
    statistics = [FeatureStatistics(features.shape[1]) for features in (a, b)]
    for one, features in zip(statistics, (a, b), strict=True):
        one.add(features)
    return frechet_distance(*statistics)


def blur(clips, factor):
    frames = uint8_to_pixels(frames_as_images(clips))
    small = F.interpolate(frames, scale_factor=1 / factor, mode="bilinear", antialias=True)
    large = F.interpolate(small, size=frames.shape[2:], mode="bilinear")
    return pixels_to_uint8(large).unflatten(0, (len(clips), -1)).transpose(1, 2)


@pytest.fixture(scope="module")
def short_clips(clips):
    """Four frames are enough, and faster."""
    return clips[:, :, :8:2]


@pytest.fixture(scope="module")
def features(short_clips, motion_proxy):
    return motion_proxy(short_clips)


@pytest.mark.parametrize(("kind", "strengths"), [("noise", (0.03, 0.1, 0.3)), ("blur", (1.5, 3, 6))])
def test_the_distance_increases_with_degradation(kind, strengths, short_clips, features, motion_proxy, add_noise):
    degrade = {"noise": add_noise, "blur": blur}[kind]
    curve = [distance(features, motion_proxy(degrade(short_clips, strength))) for strength in strengths]
    assert distance(features, features) < 1e-9
    assert curve == sorted(curve)
    assert curve[0] > 1


def test_shuffled_frames_change_only_the_motion(short_clips, features, motion_proxy, image_proxy):
    """A Fréchet distance of images does not see them."""
    half = motion_proxy.dim // 2
    shuffled = motion_proxy(short_clips[:, :, torch.tensor([2, 0, 3, 1])])
    torch.testing.assert_close(shuffled[:, :half], features[:, :half])
    assert distance(features, shuffled) > 1
    images = image_proxy(short_clips[0].transpose(0, 1)).mean(0)
    torch.testing.assert_close(features[0, :half], images)  # the appearance is the mean of the frames' features
    still = motion_proxy(short_clips[:1, :, :1].expand(-1, -1, 2, -1, -1))
    assert still[:, half:].abs().max() == 0


def test_other_media_raise_an_error(photos, short_clips, motion_proxy, image_proxy):
    with pytest.raises(SmaltiError, match="fvd_efflite0 is a metric of clips"):
        motion_proxy(photos)
    with pytest.raises(SmaltiError, match="fd_efflite0 is a metric of images"):
        image_proxy(short_clips)
    with pytest.raises(ValueError, match="2 frames"):
        motion_proxy(short_clips[:, :, :1])
    assert frechet_network("efflite0_motion").metric == "fvd_efflite0"
