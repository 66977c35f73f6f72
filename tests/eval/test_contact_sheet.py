"""The contact sheet: layout and pixels."""

import pytest
import torch
from PIL import Image

from smalti.eval.contact_sheet import DIFFERENCE_GAIN, contact_sheet
from smalti.eval.results import Example


def to_pixels(image):
    """Convert an RGB image to (H, W, 3) uint8."""
    return torch.tensor(list(image.tobytes()), dtype=torch.uint8).reshape(image.height, image.width, 3)


def to_tile(frame, size):
    """Enlarge (3, H, W) uint8 to (size, size, 3) without smoothing."""
    image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    return to_pixels(image.resize((size, size), Image.Resampling.NEAREST))


@pytest.fixture(scope="module")
def photo_examples(photos, add_noise):
    return [Example(f"photo {i}", x, y) for i, (x, y) in enumerate(zip(photos, add_noise(photos, 0.1), strict=True))]


@pytest.fixture(scope="module")
def clip_examples(clips, add_noise):
    return [Example(f"clip {i}", x, y) for i, (x, y) in enumerate(zip(clips, add_noise(clips, 0.1), strict=True))]


def test_an_image_takes_a_row_of_three(photo_examples):
    sheet = to_pixels(contact_sheet(photo_examples, {}))
    for row, example in enumerate(photo_examples):
        difference = (example.original.int() - example.reconstruction.int()).abs() * DIFFERENCE_GAIN
        images = (example.original, example.reconstruction, difference.clamp(max=255).to(torch.uint8))
        for column, image in enumerate(images):
            top, left = 34 + row * (256 + 26), 12 + column * (256 + 12)
            assert torch.equal(sheet[top : top + 256, left : left + 256], to_tile(image, 256))


@pytest.mark.parametrize(
    ("strip_frames", "indices"), [(1, [0]), (2, [0, 8]), (6, [0, 2, 3, 5, 6, 8]), (20, list(range(9)))]
)
def test_a_clip_takes_three_rows_of_evenly_spaced_frames(clip_examples, strip_frames, indices):
    sheet = to_pixels(contact_sheet(clip_examples[:1], {}, strip_frames))
    assert sheet.shape[1] == 122 + len(indices) * (160 + 12)
    for row, clip in enumerate((clip_examples[0].original, clip_examples[0].reconstruction)):
        for column, index in enumerate(indices):
            top, left = 34 + row * (160 + 2), 122 + column * (160 + 12)
            assert torch.equal(sheet[top : top + 160, left : left + 160], to_tile(clip[:, index], 160))


def test_captions_are_optional_and_names_are_shortened(photo_examples):
    long_name = "folder/" * 100 + "photo \udcff"
    example = Example(long_name, photo_examples[0].original, photo_examples[0].reconstruction)
    plain, captioned = (to_pixels(contact_sheet([example], captions)) for captions in ({}, {long_name: "31.25 dB"}))
    assert plain.shape == captioned.shape
    assert torch.equal(plain[: 34 + 256], captioned[: 34 + 256])
    assert not torch.equal(plain, captioned)


def test_large_images_are_scaled_down_and_images_and_clips_can_be_mixed(photo_examples, clip_examples):
    large = torch.zeros(3, 600, 300, dtype=torch.uint8)
    sheet = to_pixels(contact_sheet([Example("large", large, large), clip_examples[0], photo_examples[0]], {}))
    assert sheet.shape[0] == (34 + 256 + 26) + (34 + 3 * 162 - 2 + 26 + 12) + (34 + 256 + 26) + 12
    assert (sheet[34 : 34 + 256, 12 + 64 : 12 + 64 + 128] == 0).all()  # centered in its tile


def test_a_sheet_without_examples_can_be_drawn():
    assert contact_sheet([], {}).height > 0
