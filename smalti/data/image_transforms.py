"""Transforms from decoded images to pixels: random crops for training, resize and center crop for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from smalti.errors import SmaltiError
from smalti.images import decode_tensor
from smalti.pixels import to_pixels

ImageTransform = Callable[[Any], Tensor]
"""Function from an 8-bit RGB image, or (C, H, W) float32 in [-1, 1], to (C, H, W), either uint8 or float32 in [-1, 1]."""

BICUBIC = v2.InterpolationMode.BICUBIC

OVERSAMPLING = 1.5
"""A crop of a JPEG file is decoded with at least this many times the height and width of the result."""


@dataclass(frozen=True)
class Crop:
    """A crop of an image, resized to a square and possibly flipped.

    Attributes:
        top: first row of the crop in pixels; `left`, `height` and `width` likewise.
        size: height and width of the result in pixels.
        flip: whether the result is flipped horizontally.
        colors: indices of the color channels of the result; None: unchanged.
    """

    top: int
    left: int
    height: int
    width: int
    size: int
    flip: bool
    colors: tuple[int, ...] | None = None

    def __call__(self, image: Image.Image | Tensor, factor: int = 1) -> Tensor:
        """Cut the crop from an image.

        The bicubic filter is that of Pillow, computed by torch, which is several times faster; levels differ by at most 2.

        Args:
            image: RGB image, or (3, H, W) uint8, or (C, H, W) float32 in [-1, 1].
            factor: factor by which this image is smaller than the image that the crop was drawn for. The edges of the crop
                are rounded to its pixels.

        Returns:
            (3, size, size) uint8, or (C, size, size) float32.

        Raises:
            SmaltiError: the order of colors was drawn for an image with other channels than red, green and blue.
        """
        left, top = round(self.left / factor), round(self.top / factor)
        right, bottom = round((self.left + self.width) / factor), round((self.top + self.height) / factor)
        if isinstance(image, Tensor):
            pixels = image[:, top:bottom, left:right]
        else:
            pixels = F.pil_to_tensor(image.crop((left, top, right, bottom)))
        if self.colors is not None and len(pixels) != 3:
            raise SmaltiError(
                f"permute_colors is set, but the images have {len(pixels)} channels: set data.permute_colors to 0."
            )
        pixels = F.resize(pixels, [self.size, self.size], interpolation=BICUBIC, antialias=True)
        pixels = pixels.clamp(-1, 1) if pixels.is_floating_point() else pixels  # bicubic filters overshoot
        pixels = pixels if self.colors is None else pixels[list(self.colors)]
        return pixels.flip(-1) if self.flip else pixels

    def reduction(self) -> int:
        """Return the largest factor by which the image may be reduced before the crop: 1, 2, 4 or 8.

        The reduced crop has at least `OVERSAMPLING` times the height and width of the result. Its edges, which are rounded
        to reduced pixels, move by at most a third of a pixel of the result.
        """
        largest = min(self.height, self.width) / (OVERSAMPLING * self.size)
        return max(factor for factor in (1, 2, 4, 8) if factor <= max(1, largest))


ASPECT_RATIO = (3 / 4, 4 / 3)
"""Default range of the aspect ratio of training crops, that of Inception and of torchvision."""


class TrainingTransform(nn.Module):
    """Random resized crop, random horizontal flip and random order of colors. Crops smaller than the result are upsampled.

    Draws from torch's global generator, which the loader seeds for each sample.

    Args:
        size: height and width of the result in pixels.
        scale: minimum and maximum area of the crop as a fraction of the image area, in (0, 1]. The crop is a rectangle with
            a random aspect ratio and is resized to a square: see `aspect_ratio`.
        flip: whether to flip half of the samples horizontally.
        aspect_ratio: minimum and maximum width of the crop, divided by its height. The default stretches the content by up
            to 4/3 in one direction. (1, 1) keeps its proportions.
        permute_colors: probability with which the color channels of a sample are put in a random order; true is 1.

    Raises:
        SmaltiError: the size is less than 1, the fractions are not ordered or not in (0, 1], or the ratios are not ordered
            or not positive, or `permute_colors` is not in [0, 1].
    """

    def __init__(
        self,
        size: int = 256,
        scale: tuple[float, float] = (0.25, 1.0),
        flip: bool = True,
        aspect_ratio: tuple[float, float] = ASPECT_RATIO,
        permute_colors: bool | float = False,
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
        self._size = size
        self._flip = flip
        if not 0 <= permute_colors <= 1:
            raise SmaltiError(f"permute_colors is {permute_colors}: give a probability from 0 to 1, or true or false.")
        self._permute_colors = float(permute_colors)

    def forward(self, image: Image.Image | Tensor) -> Tensor:
        """Transform an RGB image, or (C, H, W) float32 in [-1, 1], of any size to (C, size, size) float32 in [-1, 1]."""
        return to_pixels(self.to_uint8(image))

    def to_uint8(self, image: Image.Image | Tensor) -> Tensor:
        """Transform an RGB image of any size to (3, size, size) uint8, which loaders convert after the transfer.

        Images (C, H, W) of float32 remain float32: they may have more than 8 bits.
        """
        return self.draw(image_size(image))(image)

    def decode_to_uint8(self, file: Path | bytes) -> Tensor:
        """Decode and transform an image file. The crop and the flip are those of the decoded image.

        A JPEG file is decoded at a half, a quarter or an eighth of its size if the crop keeps `OVERSAMPLING` times the
        resolution of the result; see `Crop`.

        Args:
            file: path of the file, or its bytes.

        Returns:
            (3, size, size) uint8.

        Raises:
            UnreadableImageError: see `decode_image`.
        """
        crops: list[Crop] = []

        def draw(size: tuple[int, int]) -> int:
            crops.append(self.draw(size))
            return crops[0].reduction()

        pixels = decode_tensor(file, draw)  # draws if the file is a JPEG
        crop = crops[0] if crops else self.draw((pixels.shape[2], pixels.shape[1]))
        return crop(pixels, crop.reduction() if crops else 1)

    def draw(self, size: tuple[int, int]) -> Crop:
        """Draw one crop, one flip and one order of colors for all images of a size, such as the frames of a clip.

        Args:
            size: (width, height) of the images in pixels.
        """
        width, height = size
        params = self._crop.make_params([torch.empty(0, height, width)])
        flip = self._flip and float(torch.rand(1)) < 0.5
        p = self._permute_colors
        permute = p == 1 or (p > 0 and float(torch.rand(1)) < p)  # p = 1 draws what older versions drew
        colors = tuple(torch.randperm(3).tolist()) if permute else None
        return Crop(**params, size=self._size, flip=flip, colors=colors)


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

    def forward(self, image: Image.Image | Tensor) -> Tensor:
        """Transform an RGB image, or (C, H, W) float32 in [-1, 1], to (C, H, W) float32; H = W = crop if there is one."""
        return to_pixels(self.to_uint8(image))

    def to_uint8(self, image: Image.Image | Tensor) -> Tensor:
        """Transform an image as `forward`, RGB images to uint8, which loaders convert after the transfer."""
        if isinstance(image, Tensor):
            # Padding is black, -1, as for RGB images.
            return self._crop(self._resize(image).clamp(-1, 1) + 1) - 1
        return F.pil_to_tensor(self._crop(self._resize(image)))


def image_size(image: Image.Image | Tensor) -> tuple[int, int]:
    """Return (width, height) of an image or of (C, H, W)."""
    return (image.shape[-1], image.shape[-2]) if isinstance(image, Tensor) else image.size


def _check_size(size: int) -> None:
    if size < 1:
        raise SmaltiError(f"size is {size}: give the height and width in pixels, at least 1.")
