"""The photos that scikit-image and scikit-learn ship: real data without a download."""

from __future__ import annotations

from typing import Literal, get_args

from PIL import Image

from smalti.data.image_decoding import decode_image
from smalti.data.packaged_files import Package, locate
from smalti.data.sources import ImageSource
from smalti.errors import SmaltiError

Split = Literal["train", "validation", "all"]

_SKIMAGE = Package("scikit-image", "skimage", "data", "photos", "The packaged photos")
_SKLEARN = Package("scikit-learn", "sklearn", "datasets/images", "photos", "The packaged photos")

# At least 256 pixels on the shorter side, and photos: no drawings, charts, pages or scans of text. motorcycle_right.png is
# left out, because it is the stereo twin of motorcycle_left.png. Held out by photo, never by patch.
_TRAIN = {
    "astronaut.png": _SKIMAGE,
    "brick.png": _SKIMAGE,
    "china.jpg": _SKLEARN,
    "coins.png": _SKIMAGE,
    "flower.jpg": _SKLEARN,
    "grass.png": _SKIMAGE,
    "gravel.png": _SKIMAGE,
    "hubble_deep_field.jpg": _SKIMAGE,
    "ihc.png": _SKIMAGE,
    "moon.png": _SKIMAGE,
    "motorcycle_left.png": _SKIMAGE,
    "retina.jpg": _SKIMAGE,
}
_VALIDATION = {
    "camera.png": _SKIMAGE,
    "chelsea.png": _SKIMAGE,
    "coffee.png": _SKIMAGE,
    "rocket.jpg": _SKIMAGE,
}


class Photos(ImageSource):
    """Sixteen packaged photos (mostly CC0, the two of scikit-learn CC-BY), decoded once and kept in memory (about 20 MB).

    Args:
        split: "train" (12 photos), "validation" (4 others) or "all".

    Raises:
        MissingExtraError: scikit-image or scikit-learn is not installed.
        SmaltiError: another split, or a version of the packages that no longer ships a photo.
    """

    def __init__(self, split: Split = "all") -> None:
        if split not in get_args(Split):
            raise SmaltiError(f"The packaged photos have no split '{split}': take train, validation or all.")
        self.split = split
        chosen = {"train": _TRAIN, "validation": _VALIDATION, "all": dict(sorted((_TRAIN | _VALIDATION).items()))}[
            split
        ]
        self._names = list(chosen)
        self._images = [decode_image(locate(name, package)) for name, package in chosen.items()]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Image.Image:
        return self._images[index]

    def name(self, index: int) -> str:
        """The photo's file name in its package."""
        return self._names[index]

    def __str__(self) -> str:
        return f"photos:{self.split}"
