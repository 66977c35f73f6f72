"""Transforms from videos to clips: which frames are read, and the image transform that is applied to each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, islice
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_pil_image

from smalti.data.band_files import BandClip
from smalti.data.image_transforms import (
    ASPECT_RATIO,
    EvaluationTransform,
    ImageTransform,
    TrainingTransform,
    image_size,
)
from smalti.data.sources import VideoSegment
from smalti.errors import SmaltiError
from smalti.pixels import to_pixels
from smalti.video import UnreadableVideoError, normalize_frame_rate, probe, read_frames

DECODING_THREADS = 1
"""Threads that decode one video. The loader already runs about one worker per core."""


class Clip(NamedTuple):
    """A clip cut from a video.

    Attributes:
        pixels: (C, T, H, W) float32 in [-1, 1].
        name: name of the video, "@", and the start of the clip in seconds: "bikes.mp4@1.320"; of a `BandClip` in frames.
    """

    pixels: Tensor
    name: str


class ClipTransform(nn.Module):
    """Base class of transforms that cut a clip from a video. Frames are read one by one, and only as many as needed.

    Args:
        frames: frames per clip; None for all frames from the start of the clip on.
        rate: frame rate in frames per second, sampled by timestamps; None for the frames of the file.
        stride: temporal stride: every stride-th frame is used, counted after resampling to `rate`.

    Raises:
        SmaltiError: `frames` or `stride` is less than 1, or `rate` is not positive.
    """

    def __init__(self, frames: int | None, rate: float | None, stride: int) -> None:
        super().__init__()
        for name, value in {"frames": frames, "stride": stride}.items():
            if value is not None and value < 1:
                raise SmaltiError(f"{name} is {value}: give at least 1.")
        self.frames = frames
        self.rate = None if rate is None else normalize_frame_rate(rate)
        self.stride = stride

    @abstractmethod
    def start_time(self, segment: VideoSegment | BandClip) -> Fraction:
        """Return where the clip starts, in seconds from the start of the file; for a `BandClip` in frames."""

    @abstractmethod
    def frame_transform(self, first: Image.Image | Tensor) -> ImageTransform:
        """Return the transform of all frames of a clip, given the first frame. Its result may be uint8."""

    def forward(self, segment: VideoSegment | BandClip) -> Clip:
        """Cut a clip from a video.

        Raises:
            UnreadableVideoError: the video cannot be read, or is too short.
        """
        clip = self.to_uint8(segment)
        return clip._replace(pixels=to_pixels(clip.pixels))

    def to_uint8(self, segment: VideoSegment | BandClip) -> Clip:
        """Cut a clip as `forward`, but leave pixels of videos in uint8, which loaders convert after the transfer."""
        start = self.start_time(segment)
        try:
            pixels = self._cut(segment, start)
        except _TooShortError:
            earliest = Fraction(0) if isinstance(segment, BandClip) else segment.start
            if start == earliest:
                raise
            # The file overstates its duration, or its frame rate is lower here than on average.
            start = earliest
            pixels = self._cut(segment, start)
        return Clip(pixels, f"{segment.name}@{float(start):.3f}")

    def _cut(self, segment: VideoSegment | BandClip, start: Fraction) -> Tensor:
        """Read and transform the frames from `start` on; returns (C, T, H, W)."""
        images = islice(self.read_images(segment, start), self.frames)
        first = next(images, None)
        frames = [] if first is None else [*map(self.frame_transform(first), chain([first], images))]
        if len(frames) < (self.frames or 1):
            raise self.too_short(segment, len(frames))
        return torch.stack(frames, dim=1)

    def read_images(self, segment: VideoSegment | BandClip, start: Fraction) -> Iterator[Image.Image | Tensor]:
        """Yield the frames of a segment from `start` on, sampled at the rate and the stride, before any other transform."""
        if isinstance(segment, BandClip):
            return map(segment.to_pixels, segment.read()[int(start) :: self.stride])
        video, rate, stride = segment.video, self.rate, self.stride
        frames = read_frames(video, rate=rate, start=start, stop=segment.stop, stride=stride, threads=DECODING_THREADS)
        return map(to_pil_image, frames)

    def too_short(self, segment: VideoSegment | BandClip, frames: int) -> UnreadableVideoError:
        """Return the error for a segment with fewer frames than a clip needs."""
        start = Fraction(0) if isinstance(segment, BandClip) else segment.start
        return _TooShortError(segment.name, self._shortage(frames, start))

    def _shortage(self, frames: int, start: Fraction) -> str:
        sampling = "" if self.rate is None else f" at {float(self.rate):.6g} frames per second"
        sampling += "" if self.stride == 1 else f" with a stride of {self.stride}"
        place = f" from {float(start):.2f} s on" if start else ""
        return f"has {frames} frames{sampling}{place}, but {self.frames or 1} are needed"


class VideoTrainingTransform(ClipTransform):
    """Cut a clip at a random time; all of its frames get the same random resized crop, flip and order of colors.

    Draws from torch's global generator, which the loader seeds for each sample. If a file does not state its duration,
    clips start at its beginning.

    Args:
        frames: frames per clip.
        rate: frame rate in frames per second, sampled by timestamps; None for the frames of the file.
        stride: temporal stride: every stride-th frame is used, counted after resampling to `rate`.
        size: height and width of the result in pixels.
        scale: minimum and maximum area of the crop as a fraction of the frame area, in (0, 1]. The crop is a rectangle with
            a random aspect ratio and is resized to a square: see `aspect_ratio`.
        flip: whether to flip half of the clips horizontally.
        aspect_ratio: minimum and maximum width of the crop, divided by its height. The default stretches the content by up
            to 4/3 in one direction. (1, 1) keeps its proportions.
        permute_colors: probability with which the color channels of a clip are put in a random order; true is 1.

    Raises:
        SmaltiError: an argument is out of range.
    """

    def __init__(
        self,
        frames: int = 17,
        rate: float | None = None,
        stride: int = 1,
        size: int = 128,
        scale: tuple[float, float] = (0.25, 1.0),
        flip: bool = True,
        aspect_ratio: tuple[float, float] = ASPECT_RATIO,
        permute_colors: bool | float = False,
    ) -> None:
        super().__init__(frames, rate, stride)
        self._spatial = TrainingTransform(size, scale, flip, aspect_ratio, permute_colors)

    def start_time(self, segment: VideoSegment | BandClip) -> Fraction:
        """Draw a start time uniformly from those that should leave enough frames."""
        if isinstance(segment, BandClip):
            starts = len(segment.read()) - ((self.frames or 1) - 1) * self.stride
            return Fraction(int(torch.randint(max(starts, 1), ())))
        info = probe(segment.video, threads=DECODING_THREADS)
        # Always drawn, so that the crop does not depend on whether the file states its duration.
        fraction = Fraction(float(torch.rand((), dtype=torch.float64)))
        stop = info.duration if segment.stop is None else segment.stop
        if stop is None:
            return segment.start
        length = (((self.frames or 1) - 1) * self.stride + 1) / (self.rate or info.rate)
        slack = max(Fraction(0), stop - segment.start - length)
        return (segment.start + slack * fraction).limit_denominator(1_000_000)

    def frame_transform(self, first: Image.Image | Tensor) -> ImageTransform:
        """Draw one crop, one flip and one order of colors for all frames."""
        return self._spatial.draw(image_size(first))


class VideoEvaluationTransform(ClipTransform):
    """Cut a clip from the start of a video; each frame is resized and cropped as in `EvaluationTransform`.

    Args:
        frames: frames per clip; None for all frames of the video.
        rate: frame rate in frames per second, sampled by timestamps; None for the frames of the file.
        stride: temporal stride: every stride-th frame is used, counted after resampling to `rate`.
        resize: length of the shorter side after resizing, in pixels; the aspect ratio is kept. None to skip the resize.
        crop: height and width of the central square crop after the resize, in pixels, padded with black if the frame is
            smaller. None to skip the crop.
        interpolation: interpolation mode of the resize, as named by torchvision.
        antialias: whether to apply an antialiasing filter when downsampling. PIL images are always filtered.

    Raises:
        SmaltiError: an argument is out of range.
    """

    def __init__(
        self,
        frames: int | None = 17,
        rate: float | None = None,
        stride: int = 1,
        resize: int | None = 256,
        crop: int | None = 256,
        interpolation: str = "bicubic",
        antialias: bool = True,
    ) -> None:
        super().__init__(frames, rate, stride)
        self._spatial = EvaluationTransform(resize, crop, interpolation, antialias)

    def start_time(self, segment: VideoSegment | BandClip) -> Fraction:
        """Return the start of the segment."""
        return Fraction(0) if isinstance(segment, BandClip) else segment.start

    def frame_transform(self, first: Image.Image | Tensor) -> ImageTransform:
        """Return the resize and center crop."""
        return self._spatial.to_uint8


class _TooShortError(UnreadableVideoError):
    """A video has fewer frames than a clip needs."""
