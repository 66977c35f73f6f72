"""What a source of images or videos promises, and the plain ones: lists of files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from PIL import Image
from torch.utils.data import Dataset

from smalti.data.image_decoding import decode_image


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


class VideoSegment(NamedTuple):
    """A video, or a part of one, that clips can be cut from; nothing of it is read yet.

    Attributes:
        name: of the file, for the clips' names.
        video: the file, or its bytes.
        start: seconds from the start of the file.
        stop: seconds, exclusive; None: to the end.
    """

    name: str
    video: Path | bytes
    start: Fraction = Fraction(0)
    stop: Fraction | None = None


class Source(Dataset[Any]):
    """Where samples come from: `Indexed`, which have indices, or `Shards`, which are streams.

    Attributes:
        videos: whether its items are `Footage`; else they are images, 8-bit RGB.
    """

    videos: ClassVar[bool] = False

    @abstractmethod
    def __str__(self) -> str:
        """What the source is called in messages."""


class IndexedSource(Source):
    """Items that can be fetched by index, in an order that never changes."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of items."""

    @abstractmethod
    def __getitem__(self, index: int) -> Any:
        """The item at `index`.

        Raises:
            UnreadableImageError, UnreadableVideoError: it is corrupt.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What the item is called in the log, and an image in batches; unique within the source."""


class ImageSource(IndexedSource):
    """Images that can be fetched by index."""

    @abstractmethod
    def __getitem__(self, index: int) -> Image.Image:
        """The image at `index`, 8-bit RGB."""


class VideoSource(IndexedSource):
    """Videos that can be fetched by index; in batches a clip is called by its file and its start in seconds."""

    videos = True

    @abstractmethod
    def __getitem__(self, index: int) -> VideoSegment:
        """The video at `index`, unread."""


class _Listed(IndexedSource):
    """Files, in the order given, each read when it is asked for.

    Args:
        paths: the files.
        root: the names are the paths relative to this folder; the file names alone if None.
    """

    def __init__(self, paths: Sequence[Path], root: Path | None = None) -> None:
        self.paths = list(paths)
        self.root = root

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path relative to the root, with forward slashes; without a root, the file's name."""
        path = self.paths[index]
        return path.name if self.root is None else path.relative_to(self.root).as_posix()

    def __str__(self) -> str:
        return str(self.root or ", ".join(str(path) for path in self.paths[:3]))


class ImageFiles(_Listed, ImageSource):
    """Image files, in the order given, each decoded when it is asked for.

    Args:
        paths: the files.
        root: the names are the paths relative to this folder; the file names alone if None.
    """

    def __getitem__(self, index: int) -> Image.Image:
        return decode_image(self.paths[index])


class VideoFiles(_Listed, VideoSource):
    """Video files, in the order given.

    Args:
        paths: the files.
        root: the names are the paths relative to this folder; the file names alone if None.
    """

    def __getitem__(self, index: int) -> VideoSegment:
        return VideoSegment(self.name(index), self.paths[index])
