"""Any image file becomes right 8-bit RGB, or an error that says why it cannot."""

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
    """A file, or the bytes of one, that holds no whole image."""

    kind = "an image"


def decode_image(image: str | os.PathLike[str] | bytes) -> Image.Image:
    """Read an image file as people are meant to see it, in 8-bit RGB.

    - The EXIF orientation is applied.
    - Transparency is composited on white: alpha, transparent palette entries, and a transparent colour (not of 16-bit RGB,
      whose colours Pillow rounds first).
    - 16-bit grey (and 32-bit integers of the same range) is scaled, v * 255 / 65535 rounded, never clipped. Of 16-bit
      colour and 16-bit grey with alpha, Pillow keeps the high byte: v // 256, at most one level away.
    - CMYK becomes RGB by Pillow's formula, with Adobe's inversion undone. Embedded colour profiles are not applied.
    - Of an animation, the first frame is taken.

    Args:
        image: a path, or the bytes of a file.

    Returns:
        A PIL image of mode RGB, at least 1 x 1.

    Raises:
        UnreadableImageError: missing, no image, corrupt, truncated, larger than Pillow's limit, or of a kind whose range of
            values is not known (floating point, 32-bit integers beyond 16 bits).
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
    """Convert a loaded image of any mode."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode == "La":  # Pillow converts premultiplied grey to LA alone
        image = image.convert("LA")
    if not (image.has_transparency_data or "transparency" in image.info):
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to mode L, or LA where a PNG names one grey level as transparent."""
    values = F.pil_to_tensor(image.convert("I")).int()
    low, high = (int(bound) for bound in values.aminmax())
    if low < 0 or high > 65535:
        raise ValueError(f"32-bit pixels from {low} to {high}, whose range is not known")
    grey = ((values * 255 + 32767) // 65535).to(torch.uint8)
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return F.to_pil_image(grey, mode="L")
    return F.to_pil_image(torch.cat([grey, (values != key).to(torch.uint8) * 255]), mode="LA")


def _reason(error: Exception) -> str:
    """One line without a full stop; Pillow's sentences sometimes hold an address in memory."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "no known image format"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")
