"""Image files with any number of channels: multi-band TIFF, PNG with 8 or 16 bits, and numpy arrays.

A folder of such files contains `channels.yaml`, which names the channels and their values:

    channels: {rgb: 3, nir: 1, swir: 2}
    range: [0, 10000]

Shapes: C channels; H, W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from smalti.channel_groups import ChannelGroups, check_groups, describe_groups
from smalti.data.sources import IndexedSource
from smalti.errors import MissingExtraError, SmaltiError
from smalti.folders import find_files
from smalti.images import UnreadableImageError

CHANNELS_FILE = "channels.yaml"
"""Name of the file that describes the channels of the files in a folder."""

BAND_SUFFIXES = frozenset((".tif", ".tiff", ".png", ".npy"))
"""Suffixes of files that can have any number of channels, in lower case."""

_KEYS = {"channels", "range", "clips"}


class ChannelsFile(NamedTuple):
    """The content of `channels.yaml`.

    Attributes:
        channels: the groups of channels of the files, in order.
        ranges: (low, high) by group: the values that become -1 and 1.
        clips: whether the files are clips; otherwise they are images.
    """

    channels: ChannelGroups
    ranges: dict[str, tuple[float, float]]
    clips: bool = False


class BandFiles(IndexedSource):
    """Base class of `BandFolder` and `BandClips`: the files in a folder with `channels.yaml`, sorted by relative path.

    Attributes:
        channels: the groups of channels.
        ranges: see `ChannelsFile`.
        suffixes: suffixes of the files, in lower case.
    """

    suffixes: ClassVar[frozenset[str]] = BAND_SUFFIXES

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.root = Path(path).expanduser()
        self.channels, self.ranges, _ = read_channels_file(self.root)
        self.files = find_files(self.root, self.suffixes)
        if not self.files:
            kind, suffixes = "clips" if self.videos else "images", ", ".join(sorted(self.suffixes))
            raise SmaltiError(f"The folder {self.root} contains no {kind}: put files into it ({suffixes}).")

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)

    def __str__(self) -> str:
        """Return the path of the folder."""
        return str(self.root)

    def name(self, index: int) -> str:
        """Return the relative path of a file."""
        return self.files[index].relative_to(self.root).as_posix()

    def origins(self) -> list[str]:
        """Return the resolved paths of the files."""
        return [os.path.realpath(file) for file in self.files]


class BandFolder(BandFiles):
    """All TIFF, PNG and npy files in a folder with `channels.yaml`, and in its subfolders, sorted by relative path.

    `range` in this file is [low, high], the values that become -1 and 1, for all channels or by group: {rgb: [0, 255],
    depth: [0, 10]}. Values outside are clamped. Without it, integers have the range of their type: 0 to 255, 0 to 65535.

    A file is (H, W) or (H, W, C); TIFF and npy also (C, H, W).

    Args:
        path: Path of the folder.

    Raises:
        SmaltiError: the folder has no `channels.yaml` or no files, or the file is invalid.
    """

    def __getitem__(self, index: int) -> Tensor:
        """Return the image at `index`, (C, H, W) float32 in [-1, 1].

        Raises:
            UnreadableImageError: the file is damaged, or does not have these channels.
        """
        file = self.files[index]
        return to_range(file, read_bands(file), self.channels, self.ranges)


class BandClip(NamedTuple):
    """A clip with any channels. Its frames are not read yet.

    Attributes:
        name: its name in the source.
        file: the npy or TIFF file.
        channels: the groups of channels.
        ranges: see `ChannelsFile`.
    """

    name: str
    file: Path
    channels: ChannelGroups
    ranges: Mapping[str, tuple[float, float]]

    def read(self) -> np.ndarray:
        """Return the frames as stored, (H, W), (H, W, C) or (C, H, W). Those of npy files are read when they are used.

        Raises:
            UnreadableImageError: the file is damaged, or contains no clip of these channels.
        """
        values, count = read_bands(self.file), sum(self.channels.values())
        if values.ndim == 4 or (values.ndim == 3 and count == 1):
            return values
        raise UnreadableImageError(
            os.fspath(self.file), f"it has the shape {values.shape}, which is not that of a clip of {count} channels",
            f"store (T, H, W, C) or (T, C, H, W), or correct {CHANNELS_FILE}",
        )  # fmt: skip

    def to_pixels(self, frame: np.ndarray) -> Tensor:
        """Convert a frame that `read` returned to (C, H, W) float32 in [-1, 1]; see `to_range`."""
        return to_range(self.file, np.asarray(frame), self.channels, self.ranges)


class BandClips(BandFiles):
    """All TIFF and npy files in a folder whose `channels.yaml` says `clips: true`, as clips.

    A file is (T, H, W, C), (T, C, H, W), or (T, H, W) of one channel. It has no frame rate: frames are used as they are.

    Args:
        path: Path of the folder.

    Raises:
        SmaltiError: see `BandFolder`.
    """

    videos = True
    suffixes = BAND_SUFFIXES - {".png"}

    def __getitem__(self, index: int) -> BandClip:
        """Return the clip at `index` without reading it."""
        return BandClip(self.name(index), self.files[index], self.channels, self.ranges)


def is_band_folder(path: Path) -> bool:
    """Return whether a folder has a file that describes its channels."""
    return (path / CHANNELS_FILE).is_file()


def read_channels_file(folder: Path) -> ChannelsFile:
    """Read what `channels.yaml` says about the files in a folder.

    Raises:
        SmaltiError: the file does not exist or is invalid.
    """
    import yaml

    file = folder / CHANNELS_FILE
    example = "write `channels: {rgb: 3, nir: 1}` and `range: [0, 10000]` into it"
    if not file.is_file():
        raise SmaltiError(f"The folder {folder} has no file {CHANNELS_FILE}: {example}.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SmaltiError(f"{file} is not valid YAML ({' '.join(str(error).split())}): {example}.") from error
    if not isinstance(content, dict) or "channels" not in content or content.keys() - _KEYS:
        raise SmaltiError(f"{file} must contain channels and, optionally, range and clips: {example}.")
    if not isinstance(content.get("clips", False), bool):
        raise SmaltiError(
            f"clips in {file} is {content['clips']!r}: write true if the files are clips, or leave it out."
        )
    channels = check_groups(content["channels"], f"channels in {file}")
    given: Any = content.get("range")
    same_for_all: dict[str, Any] = {} if given is None else dict.fromkeys(channels, given)
    ranges = dict(given) if isinstance(given, Mapping) else same_for_all
    valid = all(
        isinstance(r, list) and len(r) == 2 and all(type(v) in (int, float) for v in r) and r[0] < r[1]
        for r in ranges.values()
    )
    if not valid or ranges.keys() - channels.keys():
        raise SmaltiError(
            f"range in {file} is {given!r}: give [low, high] for all channels, or one for each of {', '.join(channels)}."
        )
    limits = {name: (float(low), float(high)) for name, (low, high) in ranges.items()}
    return ChannelsFile(channels, limits, content.get("clips", False))


def read_bands(file: Path) -> np.ndarray:
    """Read a file as stored: an image (H, W), or with channels on the first or the last axis, or a clip of such images.

    Raises:
        UnreadableImageError: the file is damaged.
        MissingExtraError: tifffile is not installed.
    """
    readers: dict[str, Callable[[Path], np.ndarray]] = {".npy": _read_npy, ".png": _read_png}
    try:
        return readers.get(file.suffix.lower(), _read_tiff)(file)
    except MissingExtraError:
        raise
    except Exception as error:  # decoders raise errors of any kind for a damaged file
        raise UnreadableImageError(os.fspath(file), " ".join(str(error).split()).rstrip(".")[:200]) from error


def _read_npy(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _read_tiff(file: Path) -> np.ndarray:
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise MissingExtraError("tifffile", "bands", "Multi-band TIFF files") from error
    return tifffile.imread(file)


def _read_png(file: Path) -> np.ndarray:
    """Read a PNG file with all of its bits; Pillow reads 8 of the 16 bits of colors. Returns (H, W, C)."""
    from torchvision.io import ImageReadMode, decode_image

    data = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
    return decode_image(data, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()


def to_range(
    file: Path, values: np.ndarray, channels: ChannelGroups, ranges: Mapping[str, tuple[float, float]]
) -> Tensor:
    """Convert the values of a file to pixels.

    Args:
        file: the file, for errors.
        values: (H, W), (H, W, C) or (C, H, W) of any real type.
        channels: the groups of channels.
        ranges: (low, high) by group. Integers of other groups have the range of their type.

    Returns:
        (C, H, W) float32 in [-1, 1].

    Raises:
        UnreadableImageError: the file has another number of channels, values that are no real numbers or not finite, or
            floating-point values of an unknown range.
    """
    count = sum(channels.values())
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim == 3 and values.shape[-1] != count and values.shape[0] == count:
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or values.shape[-1] != count or 0 in values.shape:
        raise UnreadableImageError(
            os.fspath(file), f"it has the shape {values.shape}, not {count} channels ({describe_groups(channels)})",
            f"correct the file, or {CHANNELS_FILE}",
        )  # fmt: skip
    if values.dtype.kind not in "uif":
        raise UnreadableImageError(os.fspath(file), f"its values are {values.dtype}, not real numbers")
    low, high = np.empty(count), np.empty(count)
    start = 0
    for name, size in channels.items():
        if name not in ranges and values.dtype.kind == "f":
            raise UnreadableImageError(
                os.fspath(file), f"the range of its floating-point values is unknown for the group {name}",
                f"add range: [low, high] to {CHANNELS_FILE}",
            )  # fmt: skip
        low[start : start + size], high[start : start + size] = ranges.get(name) or _type_range(values)
        start += size
    pixels = np.clip((values.astype(np.float64) - low) / (high - low) * 2 - 1, -1, 1)
    if not np.isfinite(pixels).all():
        raise UnreadableImageError(os.fspath(file), "it contains NaN", "replace missing values")
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))


def _type_range(values: np.ndarray) -> tuple[float, float]:
    info = np.iinfo(values.dtype)
    return float(info.min), float(info.max)
