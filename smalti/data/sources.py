"""Base classes of data sources.

To add a source, subclass `ImageSource`, `VideoSource` or `Shards` in a new file. Recipes and the `--data` option of
commands name it by its class path.
"""

from __future__ import annotations

from abc import abstractmethod
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from PIL import Image
from torch.utils.data import Dataset

from smalti.data.path_table import digest_names


class ReadFailure(NamedTuple):
    """A sample or a shard that could not be read.

    Attributes:
        name: the sample or the shard.
        reason: what is wrong with it, without a period at the end.
        num_shards: 0 for a sample; for a shard that is damaged or missing, the number of shards that this process reads.
    """

    name: str
    reason: str
    num_shards: int = 0


class VideoSegment(NamedTuple):
    """A video, or a part of one, from which clips can be cut. Its frames are not read yet.

    Attributes:
        name: name of the video, which the names of its clips start with.
        video: path of the video file, or its bytes.
        start: start of the segment in seconds from the start of the file.
        stop: end of the segment in seconds, exclusive; None for the end of the file.
    """

    name: str
    video: Path | bytes
    start: Fraction = Fraction(0)
    stop: Fraction | None = None


class Source(Dataset[Any]):
    """Base class of data sources: an `IndexedSource`, whose items have indices, or `Shards`, which are read as streams.

    Attributes:
        videos: whether the items are `VideoSegment`s; otherwise they are 8-bit RGB images.
        prefix: short name for the `--data` option of commands, where "prefix:text" stands for the source constructed with
            `text`; None if the source is named by its class path only. Subclasses do not inherit it.
    """

    videos: ClassVar[bool] = False
    prefix: ClassVar[str | None] = None

    @abstractmethod
    def __str__(self) -> str:
        """Return the name of the source in messages."""

    @abstractmethod
    def digest(self) -> str:
        """Return a SHA-256 of what the source contains, 64 hexadecimal digits, without reading images or videos.

        It shows whether several processes, or a run and its continuation, have the same data in the same order. Files that
        have the same names but different content are not distinguished.
        """

    def origins(self) -> list[str] | None:
        """Return where each item comes from, such as the resolved path of its file; for shards, of each shard.

        Items of two sources with the same origin are the same image or video, which shows that validation uses training
        data. None, the default, if this is not known.
        """
        return None


class IndexedSource(Source):
    """Base class of sources whose items can be fetched by index. The order of the items never changes."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of items."""

    @abstractmethod
    def __getitem__(self, index: int) -> Any:
        """Return the item at `index`.

        Raises:
            UnreadableImageError, UnreadableVideoError: the item is corrupt.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of the item at `index` in the log and, for images, in batches. It is unique in the source."""

    def digest(self) -> str:
        """Return the SHA-256 of the names in order; see `Source.digest`."""
        return digest_names(map(self.name, range(len(self))))


class ImageSource(IndexedSource):
    """Base class of sources of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> Image.Image:
        """Return the image at `index`, 8-bit RGB of any size.

        Raises:
            UnreadableImageError: the image is corrupt.
        """

    def image_file(self, index: int) -> Path | bytes | None:
        """Return the image file at `index`, or its bytes, if the image is what `decode_image` returns for it.

        Training then decodes large JPEG files only at the resolution that their crops need. None, the default, if there is
        no such file.
        """
        return None


class VideoSource(IndexedSource):
    """Base class of sources of videos. In batches, a clip is named by its video and its start in seconds."""

    videos = True

    @abstractmethod
    def __getitem__(self, index: int) -> VideoSegment:
        """Return the video at `index` without reading it."""
