"""Decoding image files of any format and mode to 8-bit RGB."""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as F

from smalti.errors import UnreadableError

_WHITE = (255, 255, 255, 255)


class UnreadableImageError(UnreadableError):
    """A file, or the bytes of one, is not a complete image."""

    kind = "an image"


def decode_image(image: str | os.PathLike[str] | bytes) -> Image.Image:
    """Decode an image file to 8-bit RGB, as an image viewer displays it.

    - The EXIF orientation is applied.
    - Transparency is composited on white: alpha, transparent palette entries, and a transparent color (except in 16-bit
      RGB, whose colors Pillow rounds first).
    - 16-bit grayscale (and 32-bit integers of the same range) is scaled, v * 255 / 65535 rounded, and never clipped. For
      16-bit color and 16-bit grayscale with alpha, Pillow keeps the high byte, v // 256, which differs by at most one
      level.
    - CMYK is converted by Pillow's formula, with Adobe's inversion undone. Embedded color profiles are not applied.
    - Of an animation, the first frame is used.

    Args:
        image: a path, or the bytes of a file.

    Returns:
        A PIL image of mode RGB, at least 1 x 1.

    Raises:
        UnreadableImageError: the file is missing, not an image, corrupt, truncated, larger than Pillow's limit, or of a
            format with an unknown range of values (floating point, 32-bit integers beyond 16 bits).
    """
    name = "The image" if isinstance(image, bytes) else os.fspath(image)
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else Path(image)) as opened:
            opened.load()
            return _to_rgb(ImageOps.exif_transpose(opened))
    except UnreadableImageError:
        raise
    except Exception as error:
        # On damaged files Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and others.
        raise UnreadableImageError(name, _reason(error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image of any mode to 8-bit RGB."""
    if image.mode == "F":
        raise ValueError("floating-point pixels of unknown range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode == "La":  # Pillow converts grayscale with premultiplied alpha to LA only
        image = image.convert("LA")
    if not (image.has_transparency_data or "transparency" in image.info):
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit grayscale to mode L, or to LA if a PNG declares one gray level transparent."""
    values = F.pil_to_tensor(image.convert("I")).int()
    low, high = (int(bound) for bound in values.aminmax())
    if low < 0 or high > 65535:
        raise ValueError(f"32-bit pixels of unknown range, with values from {low} to {high}")
    gray = ((values * 255 + 32767) // 65535).to(torch.uint8)
    transparent_level = image.info.get("transparency")
    if not isinstance(transparent_level, int):
        return F.to_pil_image(gray, mode="L")
    alpha = (values != transparent_level).to(torch.uint8) * 255
    return F.to_pil_image(torch.cat([gray, alpha]), mode="LA")


def _reason(error: Exception) -> str:
    """Describe an error in one line without a period at the end. Some of Pillow's messages contain a memory address."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "unknown image format"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")
