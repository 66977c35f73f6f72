"""What a source of images promises, and the plain one: a list of files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import Dataset

from smalti.data.decode import decode


class Fault(NamedTuple):
    """What could not be read.

    Attributes:
        name: of the sample or the shard.
        reason: what is wrong with it, without a full stop.
        shards: 0 for a sample; for a broken shard, of how many that this process reads it is one.
    """

    name: str
    reason: str
    shards: int = 0


class Source(Dataset[Any]):
    """Where images come from: `Images`, which have indices, or `Shards`, which are streams."""

    @abstractmethod
    def __str__(self) -> str:
        """What the source is called in messages."""


class Images(Source):
    """Images that can be fetched by index, in an order that never changes."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> Image.Image:
        """The image at `index`, 8-bit RGB.

        Raises:
            UnreadableImageError: it is corrupt; loaders skip it, count it and name it in the log.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What the image is called in batches and in the log; unique within the source."""


class Files(Images):
    """Image files, in the order given, each decoded when it is asked for.

    Args:
        paths: the files.
        root: the names are the paths relative to this folder; the file names alone if None.
    """

    def __init__(self, paths: Sequence[Path], root: Path | None = None) -> None:
        self.paths = list(paths)
        self.root = root

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        return decode(self.paths[index])

    def name(self, index: int) -> str:
        """The path relative to the root, with forward slashes; without a root, the file's name."""
        path = self.paths[index]
        return path.name if self.root is None else path.relative_to(self.root).as_posix()

    def __str__(self) -> str:
        return str(self.root or ", ".join(str(path) for path in self.paths[:3]))
