"""From footage to clips: which frames are taken, and what is done to each of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain, islice
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_pil_image

from smalti.data.sources import VideoSegment
from smalti.data.transforms import EvaluationTransform, TrainingTransform
from smalti.errors import SmaltiError
from smalti.video import UnreadableVideoError, as_rate, probe, read_frames

FrameTransform = Callable[[Image.Image], Tensor]
"""What is done to a frame: an 8-bit RGB image to (3, H, W) float32 in [-1, 1]."""


class Clip(NamedTuple):
    """A clip of a video.

    Attributes:
        pixels: (3, T, H, W) float32 in [-1, 1].
        name: the file's, "@", and the clip's start in seconds: "bikes.mp4@1.320".
    """

    pixels: Tensor
    name: str


class ClipTransform(nn.Module):
    """Cuts a clip from footage; frames are read one by one, and only as many as are wanted.

    Args:
        frames: of a clip; None: all from its start on.
        rate: frames a second, sampled by timestamps; None: every `stride`-th frame as it is.
        stride: of frames; with a rate, of the frames at that rate.

    Raises:
        SmaltiError: frames or stride below 1, or a rate that is not positive.
    """

    def __init__(self, frames: int | None, rate: float | None, stride: int) -> None:
        super().__init__()
        for name, value in {"frames": frames, "stride": stride}.items():
            if value is not None and value < 1:
                raise SmaltiError(f"{name} is {value}: give at least 1.")
        self.frames = frames
        self.rate = None if rate is None else as_rate(rate)
        self.stride = stride

    @abstractmethod
    def start(self, footage: VideoSegment) -> Fraction:
        """Where the clip starts, in seconds from the start of the file."""

    @abstractmethod
    def each(self, first: Image.Image) -> FrameTransform:
        """What is done to all frames of a clip, its first one given."""

    def forward(self, footage: VideoSegment) -> Clip:
        """A clip of footage.

        Raises:
            UnreadableVideoError: it cannot be read, or is too short.
        """
        start = self.start(footage)
        try:
            pixels = self._cut(footage, start)
        except _TooShortError:
            if start == footage.start:
                raise
            # The file says that it is longer than its frames are, or they are rarer here than on average.
            start = footage.start
            pixels = self._cut(footage, start)
        return Clip(pixels, f"{footage.name}@{float(start):.3f}")

    def _cut(self, footage: VideoSegment, start: Fraction) -> Tensor:
        images = islice(self._images(footage, start), self.frames)
        first = next(images, None)
        cut = [] if first is None else [*map(self.each(first), chain([first], images))]
        if len(cut) < (self.frames or 1):
            raise _TooShortError(footage.name, self._shortage(len(cut), footage.start))
        return torch.stack(cut, dim=1)

    def _images(self, footage: VideoSegment, start: Fraction) -> Iterator[Image.Image]:
        # One thread: the loader's workers are as many as there are cores.
        video, rate, stride = footage.video, self.rate, self.stride
        frames = read_frames(video, rate=rate, start=start, stop=footage.stop, stride=stride, threads=1)
        return map(to_pil_image, frames)

    def _shortage(self, frames: int, start: Fraction) -> str:
        pace = "" if self.rate is None else f" at {float(self.rate):.6g} a second"
        pace += "" if self.stride == 1 else f" with a stride of {self.stride}"
        place = f" from {float(start):.2f} s on" if start else ""
        return f"has {frames} frames{pace}{place}, and {self.frames or 1} are wanted"


class VideoTrainingTransform(ClipTransform):
    """A clip from anywhere in the footage; all of its frames get the same random crop and flip.

    Draws from torch's global generator; the loader seeds it for each sample. Where a file does not say how long it is,
    clips start at its beginning.

    Args:
        frames: of a clip.
        rate: frames a second, sampled by timestamps; None: every `stride`-th frame as it is.
        stride: of frames; with a rate, of the frames at that rate.
        size: height and width of the result in pixels.
        scale: least and greatest area of the part, as a share of the frame's, in (0, 1].
        flip: mirror half of the clips left to right.

    Raises:
        SmaltiError: a number is out of range.
    """

    def __init__(
        self,
        frames: int = 17,
        rate: float | None = None,
        stride: int = 1,
        size: int = 128,
        scale: tuple[float, float] = (0.25, 1.0),
        flip: bool = True,
    ) -> None:
        super().__init__(frames, rate, stride)
        self._spatial = TrainingTransform(size, scale, flip)

    def start(self, footage: VideoSegment) -> Fraction:
        """Anywhere from which the frames that are wanted should still come, each moment as likely."""
        info = probe(footage.video)
        share = Fraction(float(torch.rand((), dtype=torch.float64)))
        stop = info.duration if footage.stop is None else footage.stop
        if stop is None:
            return footage.start
        length = (((self.frames or 1) - 1) * self.stride + 1) / (self.rate or info.rate)
        room = max(Fraction(0), stop - footage.start - length)
        return (footage.start + room * share).limit_denominator(1_000_000)

    def each(self, first: Image.Image) -> FrameTransform:
        """One crop and one flip for all."""
        return self._spatial.drawn(first)


class VideoEvaluationTransform(ClipTransform):
    """What an evaluation protocol does to a video: the frames from its start, each resized and cropped as an image is.

    Args:
        frames: of a clip; None: all of the video.
        rate: frames a second, sampled by timestamps; None: every `stride`-th frame as it is.
        stride: of frames; with a rate, of the frames at that rate.
        resize: pixels of the shorter side afterwards, aspect ratio kept; None: no resize.
        crop: height and width of the central square cut afterwards, black where the frame is smaller; None: no crop.
        interpolation: of the resize, as torchvision calls it.
        antialias: whether the resize filters before it shrinks (Pillow's images are always filtered).

    Raises:
        SmaltiError: a number is out of range.
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

    def start(self, footage: VideoSegment) -> Fraction:
        """The start of the footage."""
        return footage.start

    def each(self, first: Image.Image) -> FrameTransform:
        """The protocol's resize and crop."""
        return self._spatial


class _TooShortError(UnreadableVideoError):
    """Footage that has fewer frames than are wanted."""
