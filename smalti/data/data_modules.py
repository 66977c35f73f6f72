"""Lightning data modules for training on images or on videos."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeVar

from lightning.pytorch import LightningDataModule, Trainer

from smalti.data.build_loaders import evaluation_loader, training_loader
from smalti.data.clip_transforms import VideoEvaluationTransform, VideoTrainingTransform
from smalti.data.datasets import Transform
from smalti.data.image_transforms import EvaluationTransform, TrainingTransform
from smalti.data.loader import Loader
from smalti.data.sampler import TrainingPosition
from smalti.data.sources import Source


class Closable(Protocol):
    """A loader with workers to stop."""

    def close(self) -> None: ...  # noqa: D102


AnyLoader = TypeVar("AnyLoader", bound=Closable)


class TrainingData(LightningDataModule):
    """Base class of data modules: asks the trainer for its position, and stops the workers at the end.

    A run that is killed at any step and resumed from a checkpoint continues with exactly the batches that it would have
    seen, for any number of workers.
    """

    def __init__(self) -> None:
        super().__init__()
        # A process gets no validation samples if there are fewer samples than processes.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._loaders: list[Closable] = []

    @abstractmethod
    def val_dataloader(self) -> Loader:
        """Return a loader that yields every validation sample once."""

    def test_dataloader(self) -> Loader:
        """Return the validation loader."""
        return self.val_dataloader()

    def teardown(self, stage: str) -> None:
        """Stop the workers."""
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
        train: source of the training samples.
        validation: source of the validation samples. Each is used exactly once, over all processes.
        transforms: transforms for training and for validation.
        batch_size: samples per process.
        workers: number of worker processes of each loader.
        repeats: how often each training file is used per epoch.
        seed: seed for shuffling and augmentation.
        max_bad: maximum fraction of unreadable samples.
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
        """Return a loader of complete training batches that starts at the trainer's position.

        Its length is that of the complete epoch.
        """
        return self.close_at_teardown(self.build_training_loader(*self.rank_and_world_size(), self.position))

    def val_dataloader(self) -> Loader:
        """Return a loader that yields every validation sample once."""
        return self.close_at_teardown(self.build_validation_loader(*self.rank_and_world_size()))

    def build_training_loader(self, rank: int, world_size: int, get_position: Callable[[], TrainingPosition]) -> Loader:
        """Build the training loader of a process; see `training_loader`."""
        return training_loader(
            self.train, self._transforms[0], batch_size=self.batch_size, workers=self.workers, repeats=self.repeats,
            seed=self.seed, max_bad=self.max_bad, rank=rank, world_size=world_size, get_position=get_position,
        )  # fmt: skip

    def build_validation_loader(self, rank: int, world_size: int) -> Loader:
        """Build the validation loader of a process; see `evaluation_loader`."""
        return evaluation_loader(
            self.validation, self._transforms[1], self.batch_size, self.workers, rank, world_size, self.max_bad,
            keep_workers=True,
        )  # fmt: skip


class ImageData(SourceData):
    """Batches of images, (B, 3, size, size) in [-1, 1].

    Training uses random resized crops and flips; validation uses the resize and center crop of `EvaluationTransform`.

    Args:
        train: Source of the training images.
        validation: Source of the validation images. Each is used exactly once, over all processes.
        size: Height and width of the images in pixels.
        batch_size: Samples per process.
        workers: Number of worker processes that load data, for training and for validation each.
        repeats: How often each image is used per epoch, with a different crop each time (increase it for small datasets).
            Must be 1 for shards.
        seed: Seed for shuffling, crops and flips.
        scale: Minimum and maximum area of training crops, as a fraction of the image area.
        flip: Whether to flip half of the training images horizontally.
        max_bad: Maximum fraction of unreadable images to skip before training stops with an error.

    Raises:
        SmaltiError: `size` or `scale` is out of range; when training starts, see `training_loader`.
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
    """Batches of clips, (B, 3, frames, size, size) in [-1, 1].

    Training uses one clip from a random time of each video, with one random resized crop and flip for all of its frames.
    Validation uses one clip from the start of each video, with the resize and center crop of `EvaluationTransform`.

    Args:
        train: Source of the training videos.
        validation: Source of the validation videos. One clip of each is used exactly once, over all processes.
        frames: Frames per clip.
        rate: Frame rate to which all videos are resampled by timestamps, in frames per second. With null, every video keeps
            its own frame rate.
        stride: Temporal stride. Every stride-th frame is used, counted after resampling.
        size: Height and width of the clips in pixels.
        batch_size: Samples per process.
        workers: Number of worker processes that load data, for training and for validation each.
        repeats: How often each video is used per epoch, with a different clip each time (increase it for small datasets).
            Must be 1 for shards.
        seed: Seed for shuffling, clips, crops and flips.
        scale: Minimum and maximum area of training crops, as a fraction of the frame area.
        flip: Whether to flip half of the training clips horizontally.
        max_bad: Maximum fraction of unreadable or too short videos to skip before training stops with an error.

    Raises:
        SmaltiError: an argument is out of range; when training starts, see `training_loader`.
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
        self.rate = rate  # frame rate of the validation videos that are logged


def trainer_position(trainer: Trainer) -> TrainingPosition:
    """Return the position of the batch that a trainer requests next. After a restart, it may be within an epoch."""
    return TrainingPosition(trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready)
