"""Evaluation protocols by name: what is done to an image before it is measured, and what it is measured against.

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
    """What happens to an image before it is measured.

    Attributes:
        name: how people call it.
        resize: pixels of the shorter side afterwards, aspect ratio kept; None: no resize.
        crop: height and width of the square cut from the centre after the resize; None: no crop.
        interpolation: of the resize, as torchvision calls it.
        antialias: whether the resize filters before it shrinks.
        pixels: value range and rounding of what is measured.
        reference: what reconstructions are compared with.
        data: the set that published values of this protocol are from; None: any.
    """

    name: str
    resize: int | None
    crop: int | None
    interpolation: Interpolation = "bicubic"
    antialias: bool = True
    pixels: str = "RGB uint8 in [0, 255]: (x + 1) * 127.5, clamped, rounded to nearest, for every metric"
    reference: str = "the same samples after the same resize and crop, for every metric (reconstruction FID)"
    data: str | None = None

    def record(self) -> dict[str, str | int | bool | None]:
        """All of it, for a report."""
        return asdict(self)


_IMAGENET = "ImageNet-1k validation, 50,000 images"
_COCO = "MS-COCO 2017 validation, 5,000 images"

PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(name="imagenet128", resize=128, crop=128, data=_IMAGENET),
        Protocol(name="imagenet256", resize=256, crop=256, data=_IMAGENET),
        Protocol(name="imagenet256_bilinear", resize=256, crop=256, interpolation="bilinear", data=_IMAGENET),
        Protocol(name="imagenet512", resize=512, crop=512, data=_IMAGENET),
        Protocol(name="coco256", resize=256, crop=256, data=_COCO),
        Protocol(name="native", resize=None, crop=None),
    )
}
"""The protocols that have a name of their own; `protocol` knows families of sizes as well."""

FAMILIES = {
    "square": "shorter side N, then the central N x N",
    "resize": "shorter side N, nothing cut",
    "center": "the central N x N, nothing resized",
}
"""Names that a size N is appended to: square64, resize480, center256."""


def protocol(name: str) -> Protocol:
    """The protocol called `name`: one of `PROTOCOLS`, or a family of `FAMILIES` and a size.

    >>> protocol("square64").crop
    64

    Raises:
        SmaltiError: nothing is called so.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    match = re.fullmatch(rf"({'|'.join(FAMILIES)})([1-9]\d{{0,4}})", name)
    if match is None:
        families = ", ".join(f"{family}N ({meaning})" for family, meaning in FAMILIES.items())
        raise SmaltiError(f"No protocol is called '{name}': the names are {', '.join(PROTOCOLS)}, {families}.")
    family, size = match[1], int(match[2])
    return Protocol(name=name, resize=None if family == "center" else size, crop=None if family == "resize" else size)
