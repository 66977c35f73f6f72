"""Scaling and rotation of latents and pixels."""

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers.spatial_transforms import SpatialTransform
from smalti.types import Latents

STRIDE = (1, 4, 4)


def averages(pixels):
    """Return the average colors of patches of 4 x 4 pixels as latents: they are equivariant."""
    video = pixels.unsqueeze(2) if pixels.ndim == 4 else pixels
    frames = video.shape[2] if pixels.ndim == 5 else None
    return Latents.from_grids((F.avg_pool3d(video, STRIDE),), tuple(pixels.shape[-2:]), frames)


@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (1, 3, 3, 16, 24)])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_averages_are_equivariant(shape, turns, scale):
    # Averages of 8 x 8 pixels are the averages of 4 x 4 of an image that was reduced by 2, if both are block averages.
    pixels = torch.rand(shape).repeat_interleave(2, -1).repeat_interleave(2, -2) * 2 - 1
    latents, transform = averages(pixels), SpatialTransform(scale, turns)
    moved = transform.transform_latents(latents, STRIDE)
    target = transform.transform_pixels(pixels, latents, STRIDE)
    assert tuple(target.shape[-2:]) == moved.size
    assert moved.frames == latents.frames
    torch.testing.assert_close(moved.z, averages(target).z)


def test_pixels_are_padded_like_the_input_of_the_encoder():
    pixels = torch.rand(1, 3, 14, 15)
    latents = averages(F.pad(pixels, (0, 1, 0, 2), mode="replicate"))
    assert SpatialTransform(1, 1).transform_pixels(pixels, latents, STRIDE).shape == (1, 3, 16, 16)


def test_a_finer_grid_is_transformed_like_the_coarsest():
    grids = torch.zeros(1, 2, 1, 8, 12), torch.zeros(1, 2, 3, 4, 6)
    moved = SpatialTransform(0.5, 1).transform_latents(Latents.from_grids(grids, (16, 24), 4), STRIDE)
    assert moved.grids == ((1, 6, 4), (3, 3, 2))
    assert moved.size == (12, 8)


def test_grids_that_do_not_fit_are_refused():
    grids = torch.zeros(1, 2, 1, 3, 3), torch.zeros(1, 2, 1, 2, 2)
    with pytest.raises(SmaltiError, match="must be a multiple of the coarsest"):
        SpatialTransform(0.5).transform_latents(Latents.from_grids(grids, (16, 16)), STRIDE)
