"""The data of a training run, for Lightning."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule, Trainer

from smalti.data.loader import Loader
from smalti.data.loading import evaluation_loader, training_loader
from smalti.data.sampling import Position
from smalti.data.sources import Source
from smalti.data.transforms import EvaluationTransform, TrainingTransform


class ImageData(LightningDataModule):
    """Batches (B, 3, size, size) of images: random crops for training, the protocol's resize and crop for validation.

    Killed at any step and resumed from a checkpoint, a run goes on with exactly the batches that it would have seen,
    whatever the number of workers.

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
        super().__init__()
        # One process's share of a small validation set may be empty.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.train = train
        self.validation = validation
        self.batch_size = batch_size
        self.workers = workers
        self.repeats = repeats
        self.seed = seed
        self.max_bad = max_bad
        self._open: list[Loader] = []
        self._training = TrainingTransform(size, scale, flip)
        self._evaluation = EvaluationTransform(size, size)

    def train_dataloader(self) -> Loader:
        """Whole batches, from where the trainer stands; the length is the whole epoch's."""
        rank, world = self._place()
        loader = training_loader(
            self.train, self._training, batch_size=self.batch_size, workers=self.workers, repeats=self.repeats,
            seed=self.seed, max_bad=self.max_bad, rank=rank, world=world,
            position=lambda: position_of(self.trainer) if self.trainer else Position(),
        )  # fmt: skip
        self._open.append(loader)
        return loader

    def val_dataloader(self) -> Loader:
        """Every validation sample once."""
        rank, world = self._place()
        loader = evaluation_loader(
            self.validation,
            self._evaluation,
            self.batch_size,
            self.workers,
            rank,
            world,
            self.max_bad,
            keep_workers=True,
        )
        self._open.append(loader)
        return loader

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

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def position_of(trainer: Trainer) -> Position:
    """Where a trainer stands that asks for its next batch: after a restart, in the epoch that was broken off."""
    return Position(trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready)
