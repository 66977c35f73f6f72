"""Transforms of images to pixels."""

import io

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from smalti.data import EvaluationTransform, Photos, TrainingTransform
from smalti.errors import SmaltiError
from smalti.images import decode_image
from smalti.pixels import image_to_pixels, uint8_to_pixels


def encode_photos() -> list[bytes]:
    """Encode the packaged photos as JPEG."""
    files = []
    for photo in Photos("all"):
        stream = io.BytesIO()
        photo.save(stream, "JPEG", quality=92)
        files.append(stream.getvalue())
    return files


def decibels(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(20 * torch.log10(255 / (a.float() - b.float()).square().mean().sqrt().clamp(min=0.1)))


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


def test_crops_are_those_of_torchvision_on_pillow_images():
    transform = TrainingTransform(96)
    crop = v2.RandomResizedCrop(96, scale=(0.25, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    for seed, photo in enumerate(Photos("all")):
        torch.manual_seed(seed)
        expected = pil_to_tensor(crop(photo))
        expected = expected.flip(-1) if torch.rand(1) < 0.5 else expected
        torch.manual_seed(seed)
        pixels = transform.to_uint8(photo)
        assert (pixels.int() - expected.int()).abs().max() <= 2
        torch.manual_seed(seed)
        assert torch.equal(transform(photo), uint8_to_pixels(pixels))


def test_colors_change_their_order_and_nothing_else_does():
    image = Photos("all")[0]
    orders = set()
    for seed in range(12):
        torch.manual_seed(seed)
        original = TrainingTransform(16).to_uint8(image)
        torch.manual_seed(seed)
        permuted = TrainingTransform(16, permute_colors=True).to_uint8(image)
        orders.add(tuple(next(i for i in range(3) if torch.equal(original[i], channel)) for channel in permuted))
    assert len(orders) > 3
    assert all(sorted(order) == [0, 1, 2] for order in orders)


def test_crops_of_reduced_jpeg_files_are_close_to_those_of_decoded_files():
    transform = TrainingTransform(48)
    factors = []
    for data in encode_photos():
        image = decode_image(data)
        for seed in range(4):
            torch.manual_seed(seed)
            crop = transform.draw(image.size)
            factor = crop.reduction()
            factors.append(factor)
            assert min(crop.height, crop.width) >= 1.5 * 48 * factor
            torch.manual_seed(seed)
            pixels = transform.decode_to_uint8(data)
            # The edges of the crop move by at most half a reduced pixel: a third of a pixel of the result.
            edges = [round(edge / factor) * factor for edge in (crop.left, crop.top)]
            edges += [
                round((crop.left + crop.width) / factor) * factor,
                round((crop.top + crop.height) / factor) * factor,
            ]
            resized = image.crop(tuple(edges)).resize((48, 48), Image.Resampling.BICUBIC)
            expected = pil_to_tensor(resized).flip(-1) if crop.flip else pil_to_tensor(resized)
            assert decibels(pixels, expected) > 38
            assert decibels(pixels, crop(image)) > 27
    assert set(factors) == {2, 4, 8}
