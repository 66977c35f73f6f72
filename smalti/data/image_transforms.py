"""Transforms from decoded images to pixels: random crops for training, resize and center crop for evaluation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from smalti.errors import SmaltiError
from smalti.pixels import image_to_pixels

ImageTransform = Callable[[Image.Image], Tensor]
"""Function from an 8-bit RGB image to (3, H, W) float32 pixels in [-1, 1]."""

BICUBIC = v2.InterpolationMode.BICUBIC


ASPECT_RATIO = (3 / 4, 4 / 3)
"""Default range of the aspect ratio of training crops, that of Inception and of torchvision."""


class TrainingTransform(nn.Module):
    """Random resized crop and random horizontal flip. Crops smaller than the result are upsampled.

    Draws from torch's global generator, which the loader seeds for each sample.

    Args:
        size: height and width of the result in pixels.
        scale: minimum and maximum area of the crop as a fraction of the image area, in (0, 1]. The crop is a rectangle with
            a random aspect ratio and is resized to a square: see `aspect_ratio`.
        flip: whether to flip half of the samples horizontally.
        aspect_ratio: minimum and maximum width of the crop, divided by its height. The default stretches the content by up
            to 4/3 in one direction. (1, 1) keeps its proportions.

    Raises:
        SmaltiError: the size is less than 1, the fractions are not ordered or not in (0, 1], or the ratios are not ordered
            or not positive.
    """

    def __init__(
        self,
        size: int = 256,
        scale: tuple[float, float] = (0.25, 1.0),
        flip: bool = True,
        aspect_ratio: tuple[float, float] = ASPECT_RATIO,
    ) -> None:
        super().__init__()
        _check_size(size)
        if not 0 < scale[0] <= scale[1] <= 1:
            raise SmaltiError(
                f"scale is {list(scale)}: give the minimum and the maximum fraction of the image area, in (0, 1]."
            )
        if not 0 < aspect_ratio[0] <= aspect_ratio[1]:
            raise SmaltiError(
                f"aspect_ratio is {list(aspect_ratio)}: give the minimum and the maximum of width / height, above 0; "
                "[1, 1] keeps the proportions."
            )
        scale, aspect_ratio = (scale[0], scale[1]), (aspect_ratio[0], aspect_ratio[1])
        self._crop = v2.RandomResizedCrop(size, scale, aspect_ratio, interpolation=BICUBIC, antialias=True)
        self._flip = flip

    def forward(self, image: Image.Image) -> Tensor:
        """Transform an RGB image of any size to (3, size, size) float32 in [-1, 1]."""
        return self.draw(image)(image)

    def draw(self, image: Image.Image) -> ImageTransform:
        """Draw one crop and one flip for several images of the same size as this one, such as the frames of a clip.

        Returns:
            A function from an image to (3, size, size) float32 in [-1, 1].
        """
        crop = self._crop.make_params([image])
        flip = self._flip and float(torch.rand(1)) < 0.5

        def apply(frame: Image.Image) -> Tensor:
            pixels = image_to_pixels(self._crop.transform(frame, crop))
            return pixels.flip(-1) if flip else pixels

        return apply


class EvaluationTransform(nn.Module):
    """Resize and center crop of an evaluation protocol. The defaults are those of ImageNet at 256 x 256 pixels.

    Args:
        resize: length of the shorter side after resizing, in pixels; the aspect ratio is kept. None to skip the resize.
        crop: height and width of the central square crop after the resize, in pixels, padded with black if the image is
            smaller. None to skip the crop.
        interpolation: interpolation mode of the resize, as named by torchvision.
        antialias: whether to apply an antialiasing filter when downsampling. PIL images are always filtered.

    Raises:
        SmaltiError: a size is less than 1.
    """

    def __init__(
        self,
        resize: int | None = 256,
        crop: int | None = 256,
        interpolation: str = "bicubic",
        antialias: bool = True,
    ) -> None:
        super().__init__()
        for size in (resize, crop):
            if size is not None:
                _check_size(size)
        mode = v2.InterpolationMode(interpolation)
        self._resize = nn.Identity() if resize is None else v2.Resize(resize, interpolation=mode, antialias=antialias)
        self._crop = nn.Identity() if crop is None else v2.CenterCrop(crop)

    def forward(self, image: Image.Image) -> Tensor:
        """Transform an RGB image of any size to (3, H, W) float32 in [-1, 1]; H = W = crop unless `crop` is None."""
        return image_to_pixels(self._crop(self._resize(image)))


def _check_size(size: int) -> None:
    if size < 1:
        raise SmaltiError(f"size is {size}: give the height and width in pixels, at least 1.")
