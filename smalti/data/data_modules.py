"""Lightning data modules for training on images or on videos."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from lightning.pytorch import LightningDataModule, Trainer

from smalti.channel_groups import RGB, ChannelGroups, describe_groups
from smalti.data.band_files import BandClips
from smalti.data.build_loaders import evaluation_loader, preview_loader, training_loader
from smalti.data.clip_transforms import VideoEvaluationTransform, VideoTrainingTransform
from smalti.data.datasets import Transform
from smalti.data.image_transforms import ASPECT_RATIO, EvaluationTransform, TrainingTransform
from smalti.data.loader import Loader
from smalti.data.overlap import describe_overlap
from smalti.data.sampler import TrainingPosition
from smalti.data.shards import Shards, VideoShards
from smalti.data.source_spec import open_source
from smalti.data.sources import IndexedSource, Source
from smalti.errors import SmaltiError
from smalti.pixels import to_pixels
from smalti.types import Batch

logger = logging.getLogger("smalti.data")


class Closable(Protocol):
    """A loader with workers to stop."""

    def close(self) -> None: ...  # noqa: D102


AnyLoader = TypeVar("AnyLoader", bound=Closable)


class TrainingData(LightningDataModule):
    """Base class of data modules: asks the trainer for its position, and stops the workers at the end.

    A run that is killed at any step and resumed from a checkpoint continues with exactly the batches that it would have
    seen, for any number of workers.

    Attributes:
        is_running: whether a trainer uses this data module, from `setup` to `teardown`. Loaders then leave the conversion
            of 8-bit pixels to `on_after_batch_transfer`.
    """

    def __init__(self) -> None:
        super().__init__()
        # A process gets no validation samples if there are fewer samples than processes.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.is_running = False
        self._loaders: list[Closable] = []

    def check_sources(self, stage: str, option: str = "data") -> None:
        """Check that the sources of a stage are given. This takes no time: call it before anything that is slow.

        Args:
            stage: "fit", "validate" or "test".
            option: name of the command line option of this data module, for error messages.

        Raises:
            SmaltiError: a source is missing, or the number of its samples is required and not given.
        """

    def find_overlap(self) -> str | None:
        """Describe the validation samples that are also training samples; None if there are none."""
        return None

    @property
    def channels(self) -> ChannelGroups | None:
        """Groups of channels of the pixels; None if they are not known."""
        return None

    @abstractmethod
    def digest(self) -> str:
        """Return a SHA-256 of the training data, the same on ranks with the same data; see `Source.digest`."""

    def setup(self, stage: str) -> None:
        """Check the sources. On rank 0, warn if validation uses training samples."""
        self.is_running = self.trainer is not None
        self.check_sources(stage)
        if stage == "fit" and self.rank_and_world_size()[0] == 0 and (overlap := self.find_overlap()):
            logger.warning(
                "%s: validation then measures what the tokenizer has memorized; validate on other data.", overlap
            )

    @abstractmethod
    def val_dataloader(self) -> Loader:
        """Return a loader that yields every validation sample once."""

    def test_dataloader(self) -> Loader:
        """Return the validation loader."""
        return self.val_dataloader()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Convert 8-bit pixels to [-1, 1] on the device of the model. The trainer transfers a quarter of the bytes."""
        pixels = to_pixels(batch.pixels)
        # The trainer converts floating-point numbers to its precision before the transfer.
        return Batch(self.trainer.precision_plugin.convert_input(pixels) if self.trainer else pixels, batch.names)

    def teardown(self, stage: str) -> None:
        """Stop the workers."""
        self.is_running = False
        while self._loaders:
            self._loaders.pop().close()

    def on_exception(self, exception: BaseException) -> None:
        """Stop the workers."""
        self.teardown("fit")

    def rank_and_world_size(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes; (0, 1) without a trainer."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def position(self) -> TrainingPosition:
        """Return the position of the trainer; the start of training without a trainer."""
        return trainer_position(self.trainer) if self.trainer else TrainingPosition()

    def close_at_teardown(self, loader: AnyLoader) -> AnyLoader:
        """Register a loader to be closed when the run ends, and return it."""
        self._loaders.append(loader)
        return loader


class SourceData(TrainingData):
    """Data module with one source for training and one for validation.

    Args:
        train: source of the training samples, or what `open_source` opens; None if there is no training.
        validation: source of the validation samples, or what `open_source` opens. Each is used exactly once, over all
            processes. None if there is no validation.
        transforms: transforms for training and for validation.
        batch_size: samples per process.
        workers: number of worker processes of each loader.
        repeats: how often each training sample is used per epoch.
        seed: seed for shuffling and augmentation.
        max_bad: maximum fraction of unreadable samples.

    Attributes:
        videos: whether the samples are videos; otherwise, they are images.

    Raises:
        SmaltiError: a source cannot be opened, or contains the other kind of samples.
    """

    videos: ClassVar[bool] = False

    def __init__(
        self,
        train: str | Path | Source | None,
        validation: str | Path | Source | None,
        transforms: tuple[Transform, Transform],
        *,
        batch_size: int,
        workers: int,
        repeats: int,
        seed: int,
        max_bad: float,
    ) -> None:
        super().__init__()
        self.train = open_training_source(train, self.videos) if train is not None else None
        self.validation = open_training_source(validation, self.videos) if validation is not None else None
        self.batch_size = batch_size
        self.workers = workers
        self.repeats = repeats
        self.seed = seed
        self.max_bad = max_bad
        self._transforms = transforms

    def check_sources(self, stage: str, option: str = "data") -> None:
        """Check that the sources of a stage are given; see `TrainingData.check_sources`."""
        self.require(*(("train",) if stage == "fit" else ()), "validation", option=option)

    def find_overlap(self) -> str | None:
        """Describe the validation samples that are also training samples; None if there are none."""
        return describe_overlap(self._get("train"), self._get("validation"))

    @property
    def channels(self) -> ChannelGroups | None:
        """Groups of channels of the pixels.

        Raises:
            SmaltiError: those of training and validation differ.
        """
        sources = [source for source in (self.train, self.validation) if source is not None]
        groups = [getattr(source, "channels", RGB) for source in sources]
        if any(other != groups[0] for other in groups):
            raise SmaltiError(
                f"The training data have the channels {describe_groups(groups[0])}, but those for validation "
                f"{describe_groups(groups[1])}: give both the same."
            )
        return groups[0] if groups else None

    def digest(self) -> str:
        """Return the SHA-256 of the training data; see `Source.digest`."""
        return self._get("train").digest()

    def train_dataloader(self) -> Loader:
        """Return a loader of complete training batches that starts at the trainer's position.

        Its length is that of the complete epoch.
        """
        loader = self.build_training_loader(*self.rank_and_world_size(), self.position, as_uint8=self.is_running)
        return self.close_at_teardown(loader)

    def preview_loaders(self) -> list[Loader]:
        """Return loaders of training batches for each kind of sample, without any effect on training.

        They yield 8-bit pixels. All ranks must call this together.
        """
        return [self.build_preview_loader(*self.rank_and_world_size())]

    def val_dataloader(self) -> Loader:
        """Return a loader that yields every validation sample once."""
        loader = self.build_validation_loader(*self.rank_and_world_size(), as_uint8=self.is_running)
        return self.close_at_teardown(loader)

    def build_training_loader(
        self, rank: int, world_size: int, get_position: Callable[[], TrainingPosition], as_uint8: bool = False
    ) -> Loader:
        """Build the training loader of a process; see `training_loader`."""
        return training_loader(
            self._get("train"), self._transforms[0], batch_size=self.batch_size, workers=self.workers,
            repeats=self.repeats, seed=self.seed, max_bad=self.max_bad, rank=rank, world_size=world_size,
            get_position=get_position, as_uint8=as_uint8,
        )  # fmt: skip

    def build_preview_loader(self, rank: int, world_size: int) -> Loader:
        """Build a loader of training batches that has no effect on training; see `preview_loader`."""
        return preview_loader(
            self._get("train"), self._transforms[0], batch_size=self.batch_size, repeats=self.repeats, seed=self.seed,
            max_bad=self.max_bad, rank=rank, world_size=world_size,
        )  # fmt: skip

    def build_validation_loader(self, rank: int, world_size: int, as_uint8: bool = False) -> Loader:
        """Build the validation loader of a process; see `evaluation_loader`."""
        loader = evaluation_loader(
            self._get("validation"), self._transforms[1], self.batch_size, self.workers, rank, world_size, self.max_bad,
            keep_workers=True, as_uint8=as_uint8,
        )  # fmt: skip
        # Lightning skips the validation of a process without batches, and all others would wait for it forever.
        loader.min_length = 1
        return loader

    def require(self, *names: str, option: str = "data") -> None:
        """Check that sources are given, and that the number of training samples is known or can be counted.

        Args:
            names: the sources: "train", "validation".
            option: name of the command line option of this data module.

        Raises:
            SmaltiError: they are not.
        """
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            purposes = " and ".join({"train": "training", "validation": "validation"}[name] for name in missing)
            raise SmaltiError(
                f"No {_kind(self.videos)} are given for {purposes}: add "
                f"{' '.join(f'--{option}.{name} PATH' for name in missing)} (a folder, a file, or shards)."
            )
        source = self.train
        if "train" in names and isinstance(source, Shards) and source.samples is None and not source.local:
            raise SmaltiError(
                f"The number of samples in {source} is unknown, because only local shards are counted: pass "
                f"`--{option}.train {type(source).__name__} --{option}.train.pattern '{source.patterns[0]}' "
                f"--{option}.train.samples N` with the number of samples per epoch."
            )

    def _get(self, name: str) -> Source:
        self.require(name)
        return getattr(self, name)


class ImageData(SourceData):
    """Batches of images, (B, 3, size, size) in [-1, 1].

    Training uses random resized crops and flips; validation uses the resize and center crop of `EvaluationTransform`.

    Args:
        train: Training images: a folder with subfolders (my/photos), a file, or shards in the webdataset format, given as a
            folder of .tar files, a pattern ('shards/train-*.tar') or a URL (https://.../train-{000..999}.tar); or packaged
            photos (photos:train), or your own source (my_package.MySource). Options of a source follow its name:
            Shards --data.train.pattern URL --data.train.samples 100000.
        validation: Validation images, given in the same ways. Each is used exactly once, over all processes. Must not
            share images with `train`.
        size: Height and width of the images in pixels. A multiple of the tokenizer's spatial stride.
        batch_size: Images per batch on each process (GPU).
        workers: Number of worker processes per GPU that load images, for training and for validation each. 0 to load in the
            main process.
        repeats: How often each training image is used per epoch, with a different crop each time (increase it for small
            datasets).
        seed: Seed for shuffling, crops and flips.
        scale: Minimum and maximum area of training crops, as a fraction of the image area. Crops are rectangles that are
            resized to squares, see aspect_ratio.
        flip: Whether to flip half of the training images horizontally.
        aspect_ratio: Minimum and maximum width / height of training crops. The default stretches the content by up to 4/3.
            [1, 1] keeps its proportions.
        permute_colors: Probability with which the color channels of a training image are put in a random order; true is 1
            (for small datasets with few colors).
        max_bad: Maximum fraction of unreadable images to skip before training stops with an error.

    Raises:
        SmaltiError: `size` or `scale` is out of range, or a source cannot be opened or contains videos; when training
            starts, a source is missing, or see `training_loader`.
    """

    # jsonargparse tries the types of a source in order. With str first, it does not import a text that may be a class path.
    # With Path, it does not read an existing file as settings. With Path last, it writes a class to config.yaml as such.
    def __init__(
        self,
        train: str | Source | Path | None = None,
        validation: str | Source | Path | None = None,
        size: int = 256,
        batch_size: int = 4,
        workers: int = 2,
        repeats: int = 1,
        seed: int = 0,
        scale: tuple[float, float] = (0.25, 1.0),
        flip: bool = True,
        aspect_ratio: tuple[float, float] = ASPECT_RATIO,
        permute_colors: bool | float = False,
        max_bad: float = 0.01,
    ) -> None:
        transforms = (
            TrainingTransform(size, scale, flip, aspect_ratio, permute_colors),
            EvaluationTransform(size, size),
        )
        super().__init__(
            train, validation, transforms,
            batch_size=batch_size, workers=workers, repeats=repeats, seed=seed, max_bad=max_bad,
        )  # fmt: skip


class VideoData(SourceData):
    """Batches of clips, (B, 3, frames, size, size) in [-1, 1].

    Training uses one clip from a random time of each video, with one random resized crop and flip for all of its frames.
    Validation uses one clip from the start of each video, with the resize and center crop of `EvaluationTransform`.

    Args:
        train: Training videos: a folder with subfolders (my/videos), a file, or shards in the webdataset format, given as a
            folder of .tar files, a pattern ('shards/train-*.tar') or a URL (https://.../train-{000..999}.tar); or packaged
            clips (clips:train), or your own source (my_package.MySource). Options of a source follow its name:
            VideoShards --data.train.pattern URL --data.train.samples 100000.
        validation: Validation videos, given in the same ways. One clip of each is used exactly once, over all processes.
            Must not share videos with `train`.
        frames: Frames per clip. For causal tokenizers, 1 plus a multiple of the temporal stride.
        rate: Frame rate to which all videos are resampled by timestamps, in frames per second. With null, every video keeps
            its own frame rate.
        stride: Temporal stride. Every stride-th frame is used, counted after resampling.
        size: Height and width of the clips in pixels. A multiple of the tokenizer's spatial stride.
        batch_size: Clips per batch on each process (GPU).
        workers: Number of worker processes per GPU that load videos, for training and for validation each. 0 to load in the
            main process.
        repeats: How often each training video is used per epoch, with a different clip each time (increase it for small
            datasets).
        seed: Seed for shuffling, clips, crops and flips.
        scale: Minimum and maximum area of training crops, as a fraction of the frame area. Crops are rectangles that are
            resized to squares, see aspect_ratio.
        flip: Whether to flip half of the training clips horizontally.
        aspect_ratio: Minimum and maximum width / height of training crops. The default stretches the content by up to 4/3.
            [1, 1] keeps its proportions.
        permute_colors: Probability with which the color channels of a training clip are put in a random order; true is 1
            (for small datasets with few colors).
        max_bad: Maximum fraction of unreadable or too short videos to skip before training stops with an error.

    Raises:
        SmaltiError: an argument is out of range, or a source cannot be opened or contains images; when training starts, a
            source is missing, or see `training_loader`.
    """

    videos = True

    def __init__(
        self,
        train: str | Source | Path | None = None,
        validation: str | Source | Path | None = None,
        frames: int = 17,
        rate: float | None = None,
        stride: int = 1,
        size: int = 128,
        batch_size: int = 2,
        workers: int = 2,
        repeats: int = 1,
        seed: int = 0,
        scale: tuple[float, float] = (0.25, 1.0),
        flip: bool = True,
        aspect_ratio: tuple[float, float] = ASPECT_RATIO,
        permute_colors: bool | float = False,
        max_bad: float = 0.01,
    ) -> None:
        transforms = (
            VideoTrainingTransform(frames, rate, stride, size, scale, flip, aspect_ratio, permute_colors),
            VideoEvaluationTransform(frames, rate, stride, size, size),
        )
        super().__init__(
            train, validation, transforms,
            batch_size=batch_size, workers=workers, repeats=repeats, seed=seed, max_bad=max_bad,
        )  # fmt: skip
        self.rate = rate  # frame rate of the validation videos that are logged
        if rate is not None and any(isinstance(source, BandClips) for source in (self.train, self.validation)):
            raise SmaltiError(f"rate is {rate:g}, but the clips have no frame rate: set data.rate to null.")


def open_training_source(source: str | Path | Source, videos: bool) -> Source:
    """Open a source of images or of videos, and check its kind.

    Args:
        source: a source, or what `open_source` opens.
        videos: whether it should contain videos; otherwise, images.

    Raises:
        SmaltiError: it cannot be opened, or contains the other kind only.
    """
    if not isinstance(source, Source):
        source = open_source(str(source), videos, any_channels=True)
    if source.videos != videos:
        raise _wrong_kind_error(source, f"{len(source)} " if isinstance(source, IndexedSource) else "")
    if isinstance(source, Shards) and source.local and not source.contains_samples():
        other = (Shards if videos else VideoShards)(source.patterns)
        if other.contains_samples():
            raise _wrong_kind_error(other, "")
        raise SmaltiError(f"The shards {source} contain no {_kind(videos)}: check the path.")
    return source


def _wrong_kind_error(source: Source, count: str) -> SmaltiError:
    """Return the error for a source of the kind that was not expected.

    Args:
        source: the source.
        count: the number of its items with a space, or "" if it is not known.
    """
    data = "VideoData" if source.videos else "ImageData"
    wanted, found = _kind(not source.videos), _kind(source.videos)
    verb = "contains" if isinstance(source, IndexedSource) else "contain"
    return SmaltiError(
        f"{source} {verb} no {wanted}, but {count}{found}: add `--data {data}` to train on {found}, or give {wanted}."
    )


def _kind(videos: bool) -> str:
    return "videos" if videos else "images"


def trainer_position(trainer: Trainer) -> TrainingPosition:
    """Return the position of the batch that a trainer requests next. After a restart, it may be within an epoch."""
    return TrainingPosition(trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready)
