"""From a decoded image to pixels: random crops for training, the protocol's resize and crop for evaluation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from smalti.errors import SmaltiError
from smalti.pixels import image_to_pixels

BICUBIC = v2.InterpolationMode.BICUBIC


class TrainingTransform(nn.Module):
    """A random part of the image, resized (up, too, where the image is small), and mirrored half of the time.

    Draws from torch's global generator; the loader seeds it for each sample.

    Args:
        size: height and width of the result in pixels.
        scale: least and greatest area of the part, as a share of the image's, in (0, 1].
        flip: mirror half of the samples left to right.

    Raises:
        SmaltiError: a size below 1, or shares that are not in order in (0, 1].
    """

    def __init__(self, size: int = 256, scale: tuple[float, float] = (0.25, 1.0), flip: bool = True) -> None:
        super().__init__()
        _check_size(size)
        if not 0 < scale[0] <= scale[1] <= 1:
            raise SmaltiError(f"scale is {list(scale)}: give the least and the greatest share of the area, in (0, 1].")
        self._crop = v2.RandomResizedCrop(size, scale=(scale[0], scale[1]), interpolation=BICUBIC, antialias=True)
        self._flip = flip

    def forward(self, image: Image.Image) -> Tensor:
        """An RGB image of any size to (3, size, size) float32 in [-1, 1]."""
        return self.drawn(image)(image)

    def drawn(self, image: Image.Image) -> Callable[[Image.Image], Tensor]:
        """One crop and one flip, drawn for images of this one's size: what all frames of a clip get."""
        crop = self._crop.make_params([image])
        flip = self._flip and float(torch.rand(1)) < 0.5

        def apply(frame: Image.Image) -> Tensor:
            pixels = image_to_pixels(self._crop.transform(frame, crop))
            return pixels.flip(-1) if flip else pixels

        return apply


class EvaluationTransform(nn.Module):
    """What an evaluation protocol does to an image; by default, the usual one of ImageNet at 256 pixels.

    Args:
        resize: pixels of the shorter side afterwards, aspect ratio kept; None: no resize.
        crop: height and width of the central square cut afterwards, black where the image is smaller; None: no crop.
        interpolation: of the resize, as torchvision calls it.
        antialias: whether the resize filters before it shrinks (Pillow's images are always filtered).

    Raises:
        SmaltiError: a size below 1.
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
        """An RGB image of any size to (3, H, W) float32 in [-1, 1]; H = W = crop where there is one."""
        return image_to_pixels(self._crop(self._resize(image)))


def _check_size(size: int) -> None:
    if size < 1:
        raise SmaltiError(f"size is {size}: give the height and width of the pixels, at least 1.")
