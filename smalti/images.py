"""Reading and writing image files.

Shapes: H, W pixels.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from smalti.errors import SmaltiError, UnreadableError
from smalti.files import atomic_write
from smalti.pixels import image_to_pixels, image_to_uint8, pixels_to_uint8

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff"),
        *(".jp2", ".j2k", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
"""Suffixes of image files, in lower case; files are matched case-insensitively. Other files in a folder are ignored."""

_WHITE = (255, 255, 255, 255)
_TURNED = range(5, 9)  # the EXIF orientations that swap width and height


class UnreadableImageError(UnreadableError):
    """A file, or the bytes of one, is not a complete image."""

    kind = "an image"


def load_image(path: str | os.PathLike[str]) -> Tensor:
    """Load an image file as pixels for a tokenizer, as in training; see `decode_image`.

    Args:
        path: an image file of any format and mode that Pillow reads.

    Returns:
        (1, 3, H, W) float32 in [-1, 1], on the CPU.

    Raises:
        UnreadableImageError: the file is missing, not an image, or damaged.
    """
    return image_to_pixels(decode_image(path))[None]


def save_image(pixels: Tensor, path: str | os.PathLike[str]) -> None:
    """Write pixels to an image file. Values are clamped to [-1, 1] and rounded to 8 bits.

    The file is written atomically. Missing folders are created, and an existing file is replaced.

    Args:
        pixels: (1, 3, H, W) or (3, H, W) floating point in [-1, 1], on any device.
        path: the file to write; its suffix determines the format. PNG is lossless.

    Raises:
        SmaltiError: `pixels` has another shape or an integer dtype, or contains NaN or infinite values; or the suffix is
            unknown, or the file cannot be written.
    """
    if pixels.ndim == 4 and len(pixels) > 1:
        raise SmaltiError(
            f"save_image writes one image, but the batch {tuple(pixels.shape)} has {len(pixels)}: save pixels[0], "
            "pixels[1], ... to one file each."
        )
    image = pixels[0] if pixels.ndim == 4 else pixels
    if image.ndim != 3 or len(image) != 3 or 0 in image.shape:
        raise SmaltiError(
            f"save_image takes pixels (1, 3, H, W) or (3, H, W), not {tuple(pixels.shape)}: select one image, and use "
            "smalti.video.write_video for the frames of a clip."
        )
    if not image.is_floating_point():
        raise SmaltiError(
            f"save_image takes floating-point pixels in [-1, 1], not {image.dtype}: convert 8-bit images with "
            "smalti.pixels.uint8_to_pixels."
        )
    if not image.isfinite().all():
        raise SmaltiError(f"The pixels for {path} contain NaN or infinite values: check what computed them.")
    try:
        write_image(path, pixels_to_uint8(image.detach()))
    except OSError as error:
        raise SmaltiError(f"{path} cannot be written ({_reason(error)}): choose another path.") from error


def write_image(path: str | os.PathLike[str], image: Tensor) -> None:
    """Write an 8-bit image atomically.

    Args:
        path: the file to write or replace; its suffix determines the format. Missing folders are created.
        image: (3, H, W) uint8 RGB, on any device.

    Raises:
        SmaltiError: the suffix is not supported.
        OSError: the file cannot be written, or the format cannot represent RGB images.
    """
    file = Path(path)
    if file.suffix.lower() not in writable_suffixes():
        raise SmaltiError(f"{file} cannot be written as an image: give a name that ends in .png, .jpg or .webp.")
    with atomic_write(file) as partial:
        Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).save(partial)


def writable_suffixes() -> frozenset[str]:
    """Return the suffixes, such as ".png", of the formats that Pillow can write."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in Image.SAVE)


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
        UnreadableImageError: the file is missing, not an image, corrupt, truncated, or of a format with an unknown range of
            values (floating point, 32-bit integers beyond 16 bits); or it has more than 178,956,970 pixels, twice
            `PIL.Image.MAX_IMAGE_PIXELS`, in which case no pixel is decoded.
    """
    with _opened(image) as opened:
        opened.load()
        return _to_rgb(ImageOps.exif_transpose(opened))


def decode_tensor(image: str | os.PathLike[str] | bytes, reduction: Callable[[tuple[int, int]], int]) -> Tensor:
    """Decode an image file to a tensor with the pixels of `decode_image`, or to a reduced one if the file is a JPEG.

    JPEG decoders can divide the size by 2, 4 or 8, rounded up, by computing fewer samples of each block of 8 x 8. This
    takes less time than decoding the full size, and gives nearly the image that antialiased downsampling gives.

    Args:
        image: a path, or the bytes of a file.
        reduction: function from the (width, height) of a JPEG image in pixels, as displayed, to the factor by which both
            are divided: 1, 2, 4 or 8. It is not called for other formats.

    Returns:
        (3, H, W) uint8 RGB, channels-last in memory.

    Raises:
        UnreadableImageError: see `decode_image`.
    """
    with _opened(image) as opened:
        if isinstance(opened, JpegImageFile):
            orientation = opened.getexif().get(ExifTags.Base.Orientation)
            width, height = opened.size
            factor = reduction((height, width) if orientation in _TURNED else (width, height))
            if factor > 1:
                opened.draft(None, (max(1, width // factor), max(1, height // factor)))
            elif opened.mode == "RGB" and orientation in (None, 1) and opened.fp is not None:
                # torchvision uses the same decoder, libjpeg-turbo, without the copies that Pillow makes. It is imported
                # here, because importing it takes as long as importing torch.
                from torchvision.io import ImageReadMode, decode_jpeg

                opened.fp.seek(0)
                data = torch.frombuffer(bytearray(opened.fp.read()), dtype=torch.uint8)
                return cast(Tensor, decode_jpeg(data, ImageReadMode.RGB))
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        return image_to_uint8(_to_rgb(opened))


@contextmanager
def _opened(image: str | os.PathLike[str] | bytes) -> Iterator[Image.Image]:
    """Open an image file, and convert every error of the decoders inside of the context.

    Raises:
        UnreadableImageError: see `decode_image`.
    """
    name = "The image" if isinstance(image, bytes) else os.fspath(image)
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else Path(image)) as opened:
            yield opened
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UnreadableImageError(name, f"it has more than {limit:,} pixels", "downscale it, or remove it") from error
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
        return image if image.mode == "RGB" else image.convert("RGB")  # convert copies even if there is nothing to do
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit grayscale to mode L, or to LA if a PNG declares one gray level transparent."""
    values = np.asarray(image.convert("I"))
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"32-bit pixels of unknown range, with values from {low} to {high}")
    gray = ((values * 255 + 32767) // 65535).astype(np.uint8)
    transparent_level = image.info.get("transparency")
    if not isinstance(transparent_level, int):
        return Image.fromarray(gray)
    alpha = (values != transparent_level).astype(np.uint8) * 255
    return Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)])


def _reason(error: Exception) -> str:
    """Describe an error in one line without a period at the end. Some of Pillow's messages contain a memory address."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "unknown image format"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")
