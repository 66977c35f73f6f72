"""The photos that scikit-image and scikit-learn ship, as a data source."""

from __future__ import annotations

from PIL import Image

from smalti.data.packaged_files import Package, Split, check_split, locate
from smalti.data.sources import ImageSource
from smalti.images import decode_image

_SKIMAGE = Package("scikit-image", "skimage", "data", "photos", "The packaged photos")
_SKLEARN = Package("scikit-learn", "sklearn", "datasets/images", "photos", "The packaged photos")

# Photos with at least 256 pixels on the shorter side: no drawings, charts, pages or scans of text. motorcycle_right.png is
# left out because it is the stereo twin of motorcycle_left.png. Both splits contain whole photos, never crops of one photo.
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
    """Sixteen packaged photos, mostly CC0; the two of scikit-learn are CC-BY.

    They are decoded once and kept in memory (about 20 MB).

    Args:
        split: Split of the photos: "train" (12 photos), "validation" (4 other photos) or "all".

    Raises:
        MissingExtraError: scikit-image or scikit-learn is not installed.
        SmaltiError: the split is unknown, or the installed version of a package does not contain a photo.
    """

    prefix = "photos"

    def __init__(self, split: Split = "all") -> None:
        check_split(split, "photos")
        self.split = split
        photos_by_split = {
            "train": _TRAIN,
            "validation": _VALIDATION,
            "all": dict(sorted((_TRAIN | _VALIDATION).items())),
        }
        photos = photos_by_split[split]
        self._names = list(photos)
        self._images = [decode_image(locate(name, package)) for name, package in photos.items()]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Image.Image:
        return self._images[index]

    def name(self, index: int) -> str:
        """Return the file name of the photo in its package."""
        return self._names[index]

    def origins(self) -> list[str]:
        """Return the name of each photo: it is the same in all splits."""
        return [f"{self.prefix}:{self.name(index)}" for index in range(len(self))]

    def __str__(self) -> str:
        return f"{self.prefix}:{self.split}"
