"""Evaluation protocols by name: how samples are prepared before they are measured, and what they are compared with.

Published values can only be reproduced if all of this is known, so every report contains it.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Literal

from smalti.errors import SmaltiError

Interpolation = Literal["nearest", "bilinear", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How an image, or the frames of a clip, are prepared before they are measured.

    Attributes:
        name: name of the protocol.
        resize: length of the shorter side in pixels after resizing, which preserves the aspect ratio; None: no resizing.
        crop: height and width in pixels of the square center crop after resizing; None: no crop.
        interpolation: interpolation of the resize, in torchvision's terms.
        antialias: whether downsampling is antialiased.
        pixels: value range and rounding of what is measured.
        reference: what reconstructions are compared with.
        data: dataset of the values published with this protocol; None: any.
        frames: number of frames of a clip, without padding; None: the protocol is for images.
        rate: frame rate in frames per second, sampled by timestamps; None: every frame of a video, at its own frame rate.
        taken: description of which frames of a video form a clip; None: the protocol is for images.
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
        """Whether the protocol is for clips, not images."""
        return self.frames is not None

    def to_dict(self) -> dict[str, str | int | float | bool | None]:
        """Return all attributes, for reports."""
        return asdict(self)


_FIRST_FRAMES = "the first frames of each video; shorter videos are skipped"
_IMAGENET = "ImageNet-1k validation, 50,000 images"
_COCO = "MS-COCO 2017 validation, 5,000 images"
# VidTok (arXiv 2412.13061) states 30 frames per second. Its code keeps every round(rate / 30)-th frame, which for these
# videos of 24 to 30 frames per second is every frame.
_MCL_JCV = (
    "MCL-JCV, 30 videos of 24 to 30 frames per second; VidTok's values are for all consecutive clips of each video"
)

PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(name="imagenet128", resize=128, crop=128, data=_IMAGENET),
        Protocol(name="imagenet256", resize=256, crop=256, data=_IMAGENET),
        Protocol(name="imagenet256_bilinear", resize=256, crop=256, interpolation="bilinear", data=_IMAGENET),
        Protocol(name="imagenet512", resize=512, crop=512, data=_IMAGENET),
        Protocol(name="coco256", resize=256, crop=256, data=_COCO),
        Protocol(name="coco256_bilinear", resize=256, crop=256, interpolation="bilinear", data=_COCO),
        Protocol(name="native", resize=None, crop=None),
        Protocol(
            name="mcljcv17x256",
            resize=256,
            crop=256,
            interpolation="bilinear",
            data=_MCL_JCV,
            frames=17,
            taken=_FIRST_FRAMES,
        ),
    )
}
"""Protocols with a fixed name. `get_protocol` also accepts the names in `FAMILIES` and `CLIPS`."""

FAMILIES = {
    "square": "shorter side N, then the central N x N",
    "resize": "shorter side N, no crop",
    "center": "the central N x N, no resizing",
}
"""Protocols for images whose names end in a size N: square64, resize480, center256."""

CLIPS = "clipT[xN][@R]"
"""Names of protocols for clips of T frames, such as clip17x128@24, clip33x256 or clip17@30.

With N, the shorter side is resized to N and the central N x N is cropped; without it, frames keep their size. R is the
frame rate in frames per second; without it, videos keep their own."""

_NUMBER = r"[1-9]\d{0,4}"


def get_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    >>> get_protocol("square64").crop
    64
    >>> clips = get_protocol("clip17x128@23.976")
    >>> clips.frames, clips.crop, clips.rate
    (17, 128, 23.976)

    Args:
        name: one of `PROTOCOLS`, or a name as in `FAMILIES` (images) or `CLIPS` (clips).

    Raises:
        SmaltiError: there is no such protocol.
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
        return Protocol(name=name, resize=size, crop=size, frames=int(match[1]), rate=rate, taken=_FIRST_FRAMES)
    families = ", ".join(f"{family}N ({meaning})" for family, meaning in FAMILIES.items())
    raise SmaltiError(
        f"The protocol '{name}' does not exist: use one of {', '.join(PROTOCOLS)}, {families}, or {CLIPS} for clips of T "
        "frames at R frames per second."
    )
