"""The pictures in a report: each example as a pair of PNG files, the original and its reconstruction.

Shapes: T frames, H, W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from smalti.eval.examples import crop_center, evenly_spaced
from smalti.eval.results import Example
from smalti.images import write_image

FOLDER = "images"
"""Folder of the pictures in a report."""

MAX_SIDE = 512
"""Maximum height and width of a picture in pixels: the center of larger images."""

STRIP_FRAMES = 3
"""Maximum number of frames in the picture of a clip, side by side: the first, the middle one and the last."""

MAX_FRAME_SIDE = 320
"""Maximum height and width of a frame in the picture of a clip."""

_KINDS = ("original", "reconstruction")
_SLUG_LETTERS = 40


def describe_pictures(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Return the pictures of examples for metrics.json.

    Each has the name of the sample, the paths of both files relative to the report, the number of pictures side by side in
    each file (frames, or groups of channels), and the names of the groups.
    """
    pictures = []
    for index, example in enumerate(examples):
        stem = PurePosixPath(example.name).name.partition(".")[0]
        slug = re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[-_SLUG_LETTERS:]
        files = {kind: f"{FOLDER}/{index:02d}-{slug}-{kind}.png" for kind in _KINDS}
        frames = len(example.panels) or (
            min(STRIP_FRAMES, example.original.shape[1]) if example.original.ndim == 4 else 1
        )
        panels = {"panels": list(example.panels)} if example.panels else {}
        pictures.append({"name": example.name, **files, "frames": frames, **panels})
    return pictures


def write_pictures(examples: Sequence[Example], out: Path) -> None:
    """Write the pictures of examples into a report, and remove those of an earlier one.

    Raises:
        OSError: a file cannot be written.
    """
    written = set()
    for example, files in zip(examples, describe_pictures(examples), strict=True):
        for kind in _KINDS:
            file = out / files[kind]
            write_image(file, draw_picture(getattr(example, kind), len(example.panels) or STRIP_FRAMES))
            written.add(file)
    for kind in _KINDS:
        for file in (out / FOLDER).glob(f"*-{kind}.png"):
            if file not in written:
                file.unlink()


def draw_picture(sample: Tensor, count: int = STRIP_FRAMES) -> Tensor:
    """Return the center of an image, or evenly spaced frames of a clip side by side.

    Args:
        sample: (3, H, W) or (3, T, H, W) uint8.
        count: maximum number of frames.

    Returns:
        (3, h, w) uint8.
    """
    if sample.ndim == 3:
        return crop_center(sample, MAX_SIDE)
    frames = [crop_center(sample[:, i], MAX_FRAME_SIDE) for i in evenly_spaced(count, sample.shape[1])]
    return torch.cat(frames, dim=2)
