"""The data of a training run, for Lightning."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeVar

from lightning.pytorch import LightningDataModule, Trainer

from smalti.data.build_loaders import evaluation_loader, training_loader
from smalti.data.clip_transforms import VideoEvaluationTransform, VideoTrainingTransform
from smalti.data.datasets import Transform
from smalti.data.loader import Loader
from smalti.data.sampler import Position
from smalti.data.sources import Source
from smalti.data.transforms import EvaluationTransform, TrainingTransform


class Closing(Protocol):
    """What has workers to let go of."""

    def close(self) -> None: ...  # noqa: D102


Opened = TypeVar("Opened", bound=Closing)


class TrainingData(LightningDataModule):
    """What all data of training runs do: ask the trainer where it stands, and stop the workers in the end.

    Killed at any step and resumed from a checkpoint, a run goes on with exactly the batches that it would have seen,
    whatever the number of workers.
    """

    def __init__(self) -> None:
        super().__init__()
        # One process's share of a small validation set may be empty.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._open: list[Closing] = []

    @abstractmethod
    def val_dataloader(self) -> Loader:
        """Every validation sample once."""

    def test_dataloader(self) -> Loader:
        """The same as for validation."""
        return self.val_dataloader()

    def teardown(self, stage: str) -> None:
        """Stop the workers."""
        while self._open:
            self._open.pop().close()

    def on_exception(self, exception: BaseException) -> None:
        """Stop the workers."""
        self.teardown("fit")

    def place(self) -> tuple[int, int]:
        """The rank of this process, and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def position(self) -> Position:
        """Where the trainer stands."""
        return position_of(self.trainer) if self.trainer else Position()

    def until_teardown(self, loader: Opened) -> Opened:
        """The loader, which is closed when the run ends."""
        self._open.append(loader)
        return loader


class SourceData(TrainingData):
    """Batches of one source for training, and of another for validation.

    Args:
        train: where training samples come from.
        validation: where validation samples come from; each is seen exactly once, over all processes.
        transforms: for training and for validation.
        batch_size: of one process.
        workers: processes that read and transform, for each of training and validation.
        repeats: times that an epoch visits each training file.
        seed: of order and augmentation.
        max_bad: share of an epoch's samples that may be skipped because they cannot be read.
    """

    def __init__(
        self,
        train: Source,
        validation: Source,
        transforms: tuple[Transform, Transform],
        *,
        batch_size: int,
        workers: int,
        repeats: int,
        seed: int,
        max_bad: float,
    ) -> None:
        super().__init__()
        self.train = train
        self.validation = validation
        self.batch_size = batch_size
        self.workers = workers
        self.repeats = repeats
        self.seed = seed
        self.max_bad = max_bad
        self._transforms = transforms

    def train_dataloader(self) -> Loader:
        """Whole batches, from where the trainer stands; the length is the whole epoch's."""
        return self.until_teardown(self.training(*self.place(), self.position))

    def val_dataloader(self) -> Loader:
        """Every validation sample once."""
        return self.until_teardown(self.validating(*self.place()))

    def training(self, rank: int, world: int, position: Callable[[], Position]) -> Loader:
        """The loader of a process for training; see `training_loader`."""
        return training_loader(
            self.train, self._transforms[0], batch_size=self.batch_size, workers=self.workers, repeats=self.repeats,
            seed=self.seed, max_bad=self.max_bad, rank=rank, world=world, position=position,
        )  # fmt: skip

    def validating(self, rank: int, world: int) -> Loader:
        """The loader of a process for validation; see `evaluation_loader`."""
        return evaluation_loader(
            self.validation, self._transforms[1], self.batch_size, self.workers, rank, world, self.max_bad,
            keep_workers=True,
        )  # fmt: skip


class ImageData(SourceData):
    """Batches (B, 3, size, size) of images: random crops for training, the protocol's resize and crop for validation.

    Args:
        train: where training images come from.
        validation: where validation images come from; each is seen exactly once, over all processes.
        size: height and width of the pixels.
        batch_size: of one process.
        workers: processes that read and transform, for each of training and validation.
        repeats: times that an epoch visits each training image, each time with another crop; for small sets. Images only.
        seed: of order, crops and flips.
        scale: least and greatest area of a training crop, as a share of the image's.
        flip: mirror half of the training samples.
        max_bad: share of an epoch's samples that may be skipped because they cannot be read.

    Raises:
        SmaltiError: size or scale out of range; when training starts, see `training_loader`.
    """

    def __init__(
        self,
        train: Source,
        validation: Source,
        size: int = 256,
        batch_size: int = 4,
        workers: int = 2,
        repeats: int = 1,
        seed: int = 0,
        scale: tuple[float, float] = (0.25, 1.0),
        flip: bool = True,
        max_bad: float = 0.01,
    ) -> None:
        transforms = (TrainingTransform(size, scale, flip), EvaluationTransform(size, size))
        super().__init__(
            train, validation, transforms,
            batch_size=batch_size, workers=workers, repeats=repeats, seed=seed, max_bad=max_bad,
        )  # fmt: skip


class VideoData(SourceData):
    """Batches (B, 3, frames, size, size) of clips.

    For training, a clip is cut anywhere in a video, with one random crop and flip for all of its frames; for validation,
    one from the start of each video, with the protocol's resize and crop.

    Args:
        train: where training videos come from.
        validation: where validation videos come from; one clip of each is seen, exactly once over all processes.
        frames: of a clip.
        rate: frames a second, sampled by timestamps, so that all videos keep their pace; null: frames as they are.
        stride: of frames: every so many-th is taken.
        size: height and width of the pixels.
        batch_size: of one process.
        workers: processes that read and transform, for each of training and validation.
        repeats: times that an epoch visits each training video, each time with another clip. Not of shards.
        seed: of order, clips, crops and flips.
        scale: least and greatest area of a training crop, as a share of the frame's.
        flip: mirror half of the training clips.
        max_bad: share of an epoch's videos that may be skipped because they cannot be read or are too short.

    Raises:
        SmaltiError: a number is out of range; when training starts, see `training_loader`.
    """

    def __init__(
        self,
        train: Source,
        validation: Source,
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
        max_bad: float = 0.01,
    ) -> None:
        transforms = (
            VideoTrainingTransform(frames, rate, stride, size, scale, flip),
            VideoEvaluationTransform(frames, rate, stride, size, size),
        )
        super().__init__(
            train, validation, transforms,
            batch_size=batch_size, workers=workers, repeats=repeats, seed=seed, max_bad=max_bad,
        )  # fmt: skip
        self.rate = rate  # films of validation play at it


def position_of(trainer: Trainer) -> Position:
    """Where a trainer stands that asks for its next batch: after a restart, in the epoch that was broken off."""
    return Position(trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready)
