"""Boxes to tokens, and stitched tiles."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.reducers import CropTokens, box_to_levels, box_to_tokens, cut, stitch


@given(st.data())
def test_a_token_is_selected_iff_its_cell_shares_a_pixel_with_the_box(data):
    width, height = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    grid = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    expected = [
        i * grid[1] + j
        for i in range(grid[0])
        for j in range(grid[1])
        # cells and box in units of 1 / (cells) pixels, so that all numbers are integers
        if j * width < right * grid[1] and (j + 1) * width > left * grid[1]
        and i * height < bottom * grid[0] and (i + 1) * height > top * grid[0]
    ]  # fmt: skip
    assert box_to_tokens((left, top, right, bottom), (width, height), grid).tolist() == expected


def test_levels_are_indices_of_the_concatenated_tokens():
    coarse, fine = box_to_levels((0, 0, 32, 32), (64, 64), [(2, 2), (4, 4)])
    assert coarse.tolist() == [0]
    assert fine.tolist() == [4, 5, 8, 9]


def test_crop_tokens():
    tokens = torch.arange(20.0).reshape(1, 20, 1).repeat(2, 1, 1)
    reduced = CropTokens((2, 2)).reduce(tokens, (4, 4), boxes=[(0, 0, 32, 32), None], image_sizes=[(64, 64)] * 2)
    assert reduced.lengths.tolist() == [8, 4]
    assert reduced.tokens[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 8, 9]
    assert reduced.assignment[0, 4:10].tolist() == [4, 5, -1, -1, 6, 7]


def test_a_box_outside_of_the_image_is_an_error():
    with pytest.raises(SmaltiError, match="has no pixels"):
        box_to_tokens((70, 0, 80, 10), (64, 64), (4, 4))


def test_cutting_inverts_stitching():
    whole = torch.arange(6 * 12.0).reshape(1, 72, 1)
    tiles = cut(whole, (2, 3), (3, 4))
    assert tiles.shape == (1, 6, 12, 1)
    assert tiles[0, 1, 0, 0] == 4
    assert torch.equal(stitch(tiles, (2, 3), (3, 4)), whole)
    with pytest.raises(SmaltiError, match="do not fit"):
        stitch(tiles, (2, 2), (3, 4))
