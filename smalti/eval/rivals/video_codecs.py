"""Codecs of clips by PyAV: H.264, HEVC. A clip is one stream.

Shapes: T frames, H, W pixels.
"""

from __future__ import annotations

import io
import re
from abc import abstractmethod
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from smalti.errors import MissingExtraError
from smalti.eval.rivals.base import CodedFile, FileCodec
from smalti.video.container import import_av

_RATE = Fraction(24)
_BT709, _LIMITED_RANGE = 1, 1
_START_CODE = re.compile(rb"\x00?\x00\x00\x01")


class VideoCodec(FileCodec):
    """A codec of FFmpeg that writes a stream of NAL units. Quality q is a constant rate factor (CRF) of 51 - q / 2.

    Attributes:
        encoder: name of the encoder in FFmpeg.
        stream_format: name of the format of the raw stream in FFmpeg.
        options: options of the encoder.
        multiple: height and width are padded to a multiple of this number of pixels.
        min_coded_side: height and width are padded to at least this number of pixels.
    """

    media = ("clips",)
    min_side = 32
    highest_quality = 102
    encoder: str
    stream_format: str
    options: ClassVar[Mapping[str, str]]
    multiple: int = 2
    min_coded_side: int = 16

    @abstractmethod
    def is_picture(self, header: int) -> bool:
        """Return whether a NAL unit codes a part of a picture, from the first byte of its header."""

    def find_obstacle(self) -> str | None:
        """Return the reason if PyAV is not installed, or without this encoder."""
        try:
            av = import_av()
        except MissingExtraError as error:
            return str(error).rstrip(".")
        if self.encoder not in av.codecs_available:
            return f"the installed PyAV has no {self.encoder}: the wheels of PyAV on PyPI have it"
        return None

    def encode(self, sample: Tensor, quality: int) -> CodedFile:
        """Encode (3, T, H, W) uint8. The last row and column are repeated up to a size that the encoder takes."""
        av = import_av()
        buffer = io.BytesIO()
        frames = self._pad(sample).permute(1, 2, 3, 0).contiguous().numpy()
        with av.open(buffer, "w", format=self.stream_format) as container:
            stream: Any = container.add_stream(self.encoder, rate=_RATE, options=self._options(quality))
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            context = stream.codec_context
            context.colorspace, context.color_range = _BT709, _LIMITED_RANGE
            context.thread_count = 1  # the result would depend on the number of threads
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE)
                frame.pts, frame.time_base = index, 1 / _RATE
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        data = buffer.getvalue()
        return CodedFile(data, self._count_picture_bytes(data))

    def decode(self, data: bytes) -> Tensor:
        """Decode a stream to (3, T, H, W) uint8 of the padded size."""
        av = import_av()
        with av.open(io.BytesIO(data), format=self.stream_format) as container:
            container.streams.video[0].codec_context.thread_count = 1
            frames = [frame.reformat(format="rgb24").to_ndarray() for frame in container.decode(video=0)]
        return torch.stack([torch.from_numpy(frame) for frame in frames]).permute(3, 0, 1, 2)

    def _pad(self, sample: Tensor) -> Tensor:
        """Repeat the last row and column of (3, T, H, W)."""
        height, width = sample.shape[-2:]
        rows, columns = (
            torch.arange(max(-(-n // self.multiple) * self.multiple, self.min_coded_side)).clamp(max=n - 1)
            for n in (height, width)
        )
        return sample[..., rows, :][..., columns]

    def _options(self, quality: int) -> dict[str, str]:
        return dict(self.options) | {"crf": str(51 - quality / 2)}

    def _count_picture_bytes(self, data: bytes) -> int:
        """Return the number of bytes of the NAL units that code pictures, without the start codes between units."""
        units = [unit for unit in _START_CODE.split(data) if unit]
        return sum(len(unit) for unit in units if self.is_picture(unit[0]))


class H264(VideoCodec):
    """H.264 / AVC (ITU-T H.264) by x264."""

    name = "h264"
    label = "H.264"
    description = (
        "H.264 by x264, the clip as one stream, 4:2:0, preset medium, tuned for PSNR, constant rate factor; counted are "
        "the coded pictures, not parameter sets, the identification of the encoder and start codes"
    )
    encoder, stream_format = "libx264", "h264"
    options: ClassVar = {"preset": "medium", "tune": "psnr"}

    def is_picture(self, header: int) -> bool:
        """Return whether the type of the NAL unit is 1 to 5 (H.264, table 7-1)."""
        return 1 <= header & 0x1F <= 5


class HEVC(VideoCodec):
    """HEVC / H.265 (ITU-T H.265) by x265."""

    name = "hevc"
    label = "HEVC"
    description = (
        "HEVC by x265, the clip as one stream, 4:2:0, preset medium, tuned for PSNR, constant rate factor; counted are "
        "the coded pictures, not parameter sets and start codes"
    )
    encoder, stream_format = "libx265", "hevc"
    # x265 returns another stream on every call if a picture is a single block of 64 x 64 pixels, and refuses smaller
    # pictures. With smaller blocks, it can crash.
    multiple, min_coded_side, min_side = 16, 96, 64
    options: ClassVar = {
        "preset": "medium",
        "tune": "psnr",
        "x265-params": "log-level=none:info=0:pools=none:frame-threads=1",
    }

    def is_picture(self, header: int) -> bool:
        """Return whether the type of the NAL unit is 0 to 31 (H.265, table 7-1)."""
        return header >> 1 & 0x3F < 32
