"""Evaluation protocols by name: what is done to a sample before it is measured, and what it is measured against.

Published values cannot be reproduced when these are left unsaid, so all of it goes into every report.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Literal

from smalti.errors import SmaltiError

Interpolation = Literal["nearest", "bilinear", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What happens to an image, or to the frames of a clip, before it is measured.

    Attributes:
        name: how people call it.
        resize: pixels of the shorter side afterwards, aspect ratio kept; None: no resize.
        crop: height and width of the square cut from the centre after the resize; None: no crop.
        interpolation: of the resize, as torchvision calls it.
        antialias: whether the resize filters before it shrinks.
        pixels: value range and rounding of what is measured.
        reference: what reconstructions are compared with.
        data: the set that published values of this protocol are from; None: any.
        frames: of a clip, without padding; None: the protocol is for images.
        rate: frames a second, sampled by timestamps; None: every frame of a video, at its own rate.
        taken: which frames of a video make a clip; None: the protocol is for images.
    """

    name: str
    resize: int | None
    crop: int | None
    interpolation: Interpolation = "bicubic"
    antialias: bool = True
    pixels: str = "RGB uint8 in [0, 255]: (x + 1) * 127.5, clamped, rounded to nearest, for every metric"
    reference: str = "the same samples after the same resize and crop, for every metric (reconstruction FID, FVD)"
    data: str | None = None
    frames: int | None = None
    rate: float | None = None
    taken: str | None = None

    @property
    def clips(self) -> bool:
        """Whether it is for clips and not for images."""
        return self.frames is not None

    def record(self) -> dict[str, str | int | float | bool | None]:
        """All of it, for a report."""
        return asdict(self)


_FIRST = "the first frames of each video; videos that are shorter are skipped"
_IMAGENET = "ImageNet-1k validation, 50,000 images"
_COCO = "MS-COCO 2017 validation, 5,000 images"
# VidTok (arXiv 2412.13061) states 30 frames a second; its code keeps every round(rate / 30)-th frame, which is every frame
# of these videos of 24 to 30 a second.
_MCL_JCV = (
    "MCL-JCV, 30 videos of 24 to 30 frames a second; VidTok's values are of all clips of a video, one after the other"
)

PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(name="imagenet128", resize=128, crop=128, data=_IMAGENET),
        Protocol(name="imagenet256", resize=256, crop=256, data=_IMAGENET),
        Protocol(name="imagenet256_bilinear", resize=256, crop=256, interpolation="bilinear", data=_IMAGENET),
        Protocol(name="imagenet512", resize=512, crop=512, data=_IMAGENET),
        Protocol(name="coco256", resize=256, crop=256, data=_COCO),
        Protocol(name="native", resize=None, crop=None),
        Protocol(
            name="mcljcv17x256",
            resize=256,
            crop=256,
            interpolation="bilinear",
            data=_MCL_JCV,
            frames=17,
            taken=_FIRST,
        ),
    )
}
"""The protocols that have a name of their own; `protocol` knows families of sizes as well."""

_NUMBER = r"[1-9]\d{0,4}"

FAMILIES = {
    "square": "shorter side N, then the central N x N",
    "resize": "shorter side N, nothing cut",
    "center": "the central N x N, nothing resized",
}
"""Names that a size N is appended to: square64, resize480, center256."""


CLIPS = "clipT[xN][@R]"
"""Names of clips: T frames, of the central N x N after the shorter side became N (without N: as they are), at R a second
(without R: at the video's own rate): clip17x128@24, clip33x256, clip17@30."""


def protocol(name: str) -> Protocol:
    """The protocol called `name`: one of `PROTOCOLS`, or of a family of images (`FAMILIES`) or of clips (`CLIPS`).

    >>> protocol("square64").crop
    64
    >>> clips = protocol("clip17x128@23.976")
    >>> clips.frames, clips.crop, clips.rate
    (17, 128, 23.976)

    Raises:
        SmaltiError: nothing is called so.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if match := re.fullmatch(rf"({'|'.join(FAMILIES)})({_NUMBER})", name):
        family, size = match[1], int(match[2])
        resize, crop = (None if family == "center" else size), (None if family == "resize" else size)
        return Protocol(name=name, resize=resize, crop=crop)
    if match := re.fullmatch(rf"clip({_NUMBER})(?:x({_NUMBER}))?(?:@({_NUMBER}(?:\.\d{{1,3}})?))?", name):
        size = int(match[2]) if match[2] else None
        rate = float(match[3]) if match[3] else None
        return Protocol(name=name, resize=size, crop=size, frames=int(match[1]), rate=rate, taken=_FIRST)
    families = ", ".join(f"{family}N ({meaning})" for family, meaning in FAMILIES.items())
    raise SmaltiError(
        f"No protocol is called '{name}': the names are {', '.join(PROTOCOLS)}, {families}, and {CLIPS} for clips of T "
        "frames at R a second."
    )
