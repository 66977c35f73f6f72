"""LLaVA-UHD's slicing: the slices tile the image, and the sequence has its separators."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smalti.errors import SmaltiError
from smalti.reducers import plan_slices, slice_image, slice_sequence, stitch
from smalti.reducers.uhd_slicing import COMMA, NEWLINE


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_slices_tile_the_refined_image(width, height):
    plan = plan_slices((width, height))
    assert plan.slices <= 7
    assert plan.thumbnail_size[0] % 14 == plan.thumbnail_size[1] % 14 == 0
    if plan.grid is None:
        return
    assert sum((r - l) * (b - t) for l, t, r, b in plan.boxes()) == plan.refine_size[0] * plan.refine_size[1]  # noqa: E741
    assert plan.boxes()[-1][2:] == plan.refine_size
    assert plan.slice_size[0] % 14 == plan.slice_size[1] % 14 == 0
    assert plan.separators().count(NEWLINE) == plan.grid[1]
    assert plan.separators().count(COMMA) == plan.slices - plan.grid[1]


def test_tokens_of_slices_stitch_to_the_map_of_the_image():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (62, 90, 3), generator=generator, dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    plan = plan_slices(image.size, 42, 6)
    _, slices = slice_image(image, plan)

    def tokens(part, patch=14):
        x = torch.frombuffer(bytearray(part.tobytes()), dtype=torch.uint8).reshape(part.height, part.width, 3).float()
        return x.unfold(0, patch, patch).unfold(1, patch, patch).mean((-1, -2)).flatten(0, 1)

    width, height = plan.slice_size
    stitched = stitch(torch.stack([tokens(s) for s in slices])[None], plan.grid[::-1], (height // 14, width // 14))
    canvas = Image.new("RGB", plan.refine_size)
    for part, box in zip(slices, plan.boxes(), strict=True):
        canvas.paste(part, box[:2])
    torch.testing.assert_close(stitched[0], tokens(canvas))


def test_the_sequence():
    plan = plan_slices((672, 672), 336, 4)
    assert plan.grid == (2, 2)
    parts = [torch.full((2, 1), float(i)) for i in range(4)]
    comma, newline = torch.tensor([-1.0]), torch.tensor([-2.0])
    sequence = slice_sequence(parts, torch.full((1, 1), 9.0), comma, newline, plan)
    assert sequence[:, 0].tolist() == [0, 0, -1, 1, 1, -2, 2, 2, -1, 3, 3, -2, 9]
    with pytest.raises(SmaltiError, match="4 slices, but 1"):
        slice_sequence(parts[:1], parts[0], comma, newline, plan)


def test_an_empty_image_is_an_error():
    with pytest.raises(SmaltiError, match="cannot be sliced"):
        plan_slices((0, 5))
