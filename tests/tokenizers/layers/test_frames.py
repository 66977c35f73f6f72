"""Conversions between videos and images, and 2-D layers that are applied to each frame of a video."""

import torch

from smalti.tokenizers.layers.frames import apply_per_frame, images_to_video, video_to_images


def test_video_to_images_is_inverted():
    x = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(images_to_video(video_to_images(x), batch=2), x)


def test_a_layer_is_applied_to_each_frame():
    x = torch.randn(2, 3, 4, 5, 6)
    flipped = apply_per_frame(lambda images: images[:, :2].flip(-1), x)
    assert torch.equal(flipped, x[:, :2].flip(-1))
