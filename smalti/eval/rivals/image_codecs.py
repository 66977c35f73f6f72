"""Codecs of images by Pillow: JPEG, WebP, AVIF.

Shapes: H, W pixels.
"""

from __future__ import annotations

import io
import struct
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image, features
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from smalti.eval.rivals.base import CodedFile, FileCodec


class ImageCodec(FileCodec):
    """A codec of Pillow. Subclasses declare `pillow_format` and `pillow_feature`, and implement `encode` and `description`.

    Attributes:
        pillow_format: name of the format in Pillow.
        pillow_feature: name of the library in `PIL.features`.
    """

    media = ("images",)
    min_side = 8
    pillow_format: str
    pillow_feature: str

    def find_obstacle(self) -> str | None:
        """Return the reason if the installed Pillow cannot write the format with the settings of this codec."""
        if not features.check(self.pillow_feature):
            return f"the installed Pillow has no {self.pillow_format} codec: `pip install --upgrade pillow` may add it"
        try:
            self.encode(torch.zeros(3, 16, 16, dtype=torch.uint8), 0)
        except (OSError, ValueError) as error:
            return f"the installed Pillow cannot write {self.pillow_format} with these settings ({error})"
        return None

    @abstractmethod
    def encode(self, sample: Tensor, quality: int) -> CodedFile:
        """Encode (3, H, W) uint8. See `FileCodec.encode`."""

    def decode(self, data: bytes) -> Tensor:
        """Decode a file to (3, H, W) uint8."""
        with Image.open(io.BytesIO(data)) as image:
            return pil_to_tensor(image.convert("RGB"))

    def _save(self, sample: Tensor, **options: Any) -> bytes:
        buffer = io.BytesIO()
        # An array has no color profile or EXIF data that would go into the file.
        image = Image.fromarray(sample.permute(1, 2, 0).contiguous().numpy())
        image.save(buffer, self.pillow_format, **options)
        return buffer.getvalue()


class JPEG(ImageCodec):
    """Baseline JPEG (ITU-T T.81) by libjpeg-turbo with standard or optimized Huffman tables, whichever need fewer bytes."""

    name = "jpeg"
    label = "JPEG"
    description = (
        "baseline JPEG by Pillow, 4:2:0; counted are the scan and optimized Huffman tables, but not the standard tables "
        "where they give fewer bytes, and no other headers"
    )
    pillow_format, pillow_feature = "JPEG", "jpg"
    highest_quality = 99

    def encode(self, sample: Tensor, quality: int) -> CodedFile:
        """Encode (3, H, W) uint8. Quality q is libjpeg's q + 1."""
        standard, optimized = (self._save(sample, quality=quality + 1, optimize=o) for o in (False, True))
        scan = _count_segment_bytes(standard)["scan"]
        segments = _count_segment_bytes(optimized)
        adapted = segments["scan"] + segments["tables"]
        return CodedFile(standard, scan) if scan <= adapted else CodedFile(optimized, adapted)


class WebP(ImageCodec):
    """Lossy WebP (VP8 intra frames, RFC 6386) by libwebp."""

    name = "webp"
    label = "WebP"
    description = "lossy WebP by Pillow, 4:2:0, method 6; counted is the VP8 data, not the RIFF container"
    pillow_format, pillow_feature = "WEBP", "webp"
    highest_quality = 100

    def encode(self, sample: Tensor, quality: int) -> CodedFile:
        """Encode (3, H, W) uint8. See `FileCodec.encode`."""
        data = self._save(sample, quality=quality, method=6)
        (counted,) = (size for name, size in _riff_chunks(data) if name == b"VP8 ")
        return CodedFile(data, counted)


class AVIF(ImageCodec):
    """AVIF (AV1 intra frames) by libavif and libaom, tuned for PSNR."""

    name = "avif"
    label = "AVIF"
    description = (
        "AVIF by Pillow with libaom, 4:4:4, speed 6, tuned for PSNR; counted is the AV1 data, not the container"
    )
    pillow_format, pillow_feature = "AVIF", "avif"
    highest_quality = 100

    def encode(self, sample: Tensor, quality: int) -> CodedFile:
        """Encode (3, H, W) uint8. See `FileCodec.encode`."""
        options = {"speed": 6, "subsampling": "4:4:4", "codec": "aom", "advanced": {"tune": "psnr"}, "max_threads": 1}
        data = self._save(sample, quality=quality, **options)
        return CodedFile(data, sum(size for name, size in _boxes(data) if name == b"mdat"))


def _count_segment_bytes(jpeg: bytes) -> dict[str, int]:
    """Return the number of bytes of the Huffman tables ("tables") and of the entropy-coded data ("scan") of a JPEG file.

    The file has one scan, without restart markers, at its end.
    """
    position, tables = 2, 0  # after the start marker
    while True:
        _, marker, length = struct.unpack_from(">BBH", jpeg, position)
        position += 2 + length
        if marker == 0xC4:  # define Huffman table
            tables += 2 + length
        elif marker == 0xDA:  # start of scan; its data is followed by the two bytes of the end marker
            return {"tables": tables, "scan": len(jpeg) - 2 - position}


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the name and the number of content bytes of each chunk of a RIFF file."""
    position = 12  # after "RIFF", the size of the file, and its kind
    while position < len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        yield name, size
        position += 8 + size + size % 2


def _boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the name and the number of content bytes of each top-level box of an ISO base media file."""
    position = 0
    while position < len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        yield name, size - 8
        position += size
