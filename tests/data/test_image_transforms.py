"""Transforms of images to pixels."""

import pytest
import torch
from PIL import Image

from smalti.data import EvaluationTransform, Photos, TrainingTransform
from smalti.errors import SmaltiError
from smalti.pixels import image_to_pixels


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (90, 3), (31, 32), (64, 64), (400, 300)])
def test_images_of_every_size_become_the_requested_size(size):
    image = Image.radial_gradient("L").resize(size).convert("RGB")
    for transform in (TrainingTransform(32), EvaluationTransform(32, 32)):
        pixels = transform(image)
        assert pixels.shape == (3, 32, 32)
        assert pixels.dtype == torch.float32
        assert -1 <= pixels.min() <= pixels.max() <= 1


def test_pixels_are_in_minus_one_to_one_and_an_image_of_the_right_size_is_unchanged():
    ramp = Image.frombytes("L", (256, 1), bytes(range(256))).convert("RGB")
    torch.testing.assert_close(image_to_pixels(ramp)[0, 0], torch.linspace(-1, 1, 256))
    photo = Photos("validation")[1]
    square = photo.crop((0, 0, 64, 64))
    torch.testing.assert_close(EvaluationTransform(64, 64)(square), image_to_pixels(square), rtol=0, atol=0)


def test_arguments_out_of_range_raise_an_error():
    for arguments in ((0,), (32, (0.0, 1.0)), (32, (0.6, 0.5)), (32, (0.5, 1.5))):
        with pytest.raises(SmaltiError):
            TrainingTransform(*arguments)
    with pytest.raises(SmaltiError, match="size is 0"):
        EvaluationTransform(0)
