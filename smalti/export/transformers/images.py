"""Images in sequences of ids, and images as pixels of a visual tokenizer."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.export.vocabulary.grammar import Grid
from smalti.export.vocabulary.manifest import VisualVocabulary
from smalti.images import decode_image
from smalti.pixels import image_to_pixels, pixels_to_uint8


def find_images(
    vocabulary: VisualVocabulary, ids: list[int], grid: Grid | None = None
) -> list[tuple[int, int, np.ndarray]]:
    """Find the images in a sequence.

    Args:
        vocabulary: a vocabulary with flat sequences and a begin token.
        ids: the sequence.
        grid: grid of images that do not state it.

    Returns:
        For each image, the index of its first token, the index after its last one, and its codes (h, w, K).

    Raises:
        SmaltiError: an image is not complete or not valid.
    """
    assert vocabulary.grammar.begin is not None
    begin = vocabulary.specials[vocabulary.grammar.begin].id
    found, position = [], 0
    while begin in ids[position:]:
        start = ids.index(begin, position)
        stated = vocabulary.grammar.size is not None or vocabulary.grid.fixed is not None
        known = vocabulary.find_grid(np.array(ids[start:]), None if stated else grid)
        end = start + vocabulary.length(known)
        found.append((start, end, vocabulary.decode(np.array(ids[start:end]), known)))
        position = end
    return found


def pixels_of(image: Any, size: tuple[int, int] | None = None) -> Tensor:
    """Return pixels (1, 3, H, W) in [-1, 1].

    Args:
        image: a PIL image, a path, or pixels (3, H, W) or (1, 3, H, W) in [-1, 1].
        size: (height, width) to which PIL images and files are scaled and cropped; None: they keep their size.

    Raises:
        SmaltiError: it is none of these, cannot be read, or pixels have another size.
    """
    if isinstance(image, Tensor):
        pixels = image if image.ndim == 4 else image[None]
        if size is not None and tuple(pixels.shape[-2:]) != tuple(size):
            raise SmaltiError(f"The pixels have the size {tuple(pixels.shape[-2:])}, not {tuple(size)}: resize them.")
        return pixels
    if isinstance(image, (str, os.PathLike)):
        image = decode_image(image)
    if not isinstance(image, Image.Image):
        raise SmaltiError(f"An image is a PIL image, a path or pixels (3, H, W), not a {type(image).__name__}.")
    image = image.convert("RGB")
    if size is not None:
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
    return image_to_pixels(image)[None]


def to_image(pixels: Tensor) -> Image.Image:
    """Return pixels (3, H, W) in [-1, 1] as an 8-bit image."""
    return Image.fromarray(pixels_to_uint8(pixels).permute(1, 2, 0).cpu().numpy())
