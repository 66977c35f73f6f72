"""Transforms of images to pixels."""

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

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


def stretch(transform, image):
    """Return how much a transform stretches an image in height, relative to width. Red is x, and green is y."""
    red, green, _ = transform(image)
    return float((green[-2, 8] - green[1, 8]) / (red[8, -2] - red[8, 1]))


def test_training_crops_change_the_aspect_ratio_within_the_given_range():
    y, x = torch.meshgrid(torch.arange(0, 256, 2), torch.arange(0, 256, 2), indexing="ij")
    image = to_pil_image(torch.stack([x, y, 0 * x]).to(torch.uint8))
    torch.manual_seed(0)
    default = [stretch(TrainingTransform(16, (0.2, 0.5), flip=False), image) for _ in range(40)]
    assert 0.72 < min(default) < 0.85
    assert 1.2 < max(default) < 1.4
    kept = TrainingTransform(16, (0.2, 0.5), False, (1, 1))
    assert [stretch(kept, image) for _ in range(10)] == pytest.approx([1] * 10, abs=0.06)
    # An image so wide that no crop of the area fits: the largest square in the center.
    wide = image.resize((128, 32))
    assert stretch(TrainingTransform(16, (0.9, 1.0), False, (1, 1)), wide) == pytest.approx(4, rel=0.1)


def test_arguments_out_of_range_raise_an_error():
    for arguments in (
        (0,), (32, (0.0, 1.0)), (32, (0.6, 0.5)), (32, (0.5, 1.5)), (32, (0.5, 1), True, (2, 1)),
        (32, (0.5, 1), True, (0, 1)),
    ):  # fmt: skip
        with pytest.raises(SmaltiError):
            TrainingTransform(*arguments)
    with pytest.raises(SmaltiError, match="size is 0"):
        EvaluationTransform(0)
