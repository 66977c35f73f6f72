"""A few batches of the training data before training starts, for callbacks that fit something to them.

Shapes: B batch, T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from smalti.distributed import gather, world_size
from smalti.pixels import to_pixels
from smalti.trainers.rank_errors import raise_together

MAX_VALUES = 2**26
"""Number of pixel values of each kind that a rank loads: 64 MB in 8 bits, 340 images of 256 x 256 pixels."""


@dataclass(frozen=True)
class TrainingBatches:
    """Training batches of one process, kept on the host in 8 bits. Iterating yields their pixels, any number of times.

    Attributes:
        batches: (B, 3, H, W) images and (B, 3, T, H, W) clips, uint8 or float in [-1, 1]; the same number on every rank.
        device: device of the pixels that are yielded.
    """

    batches: list[Tensor]
    device: torch.device

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield (B, 3, H, W) or (B, 3, T, H, W) float32 in [-1, 1]."""
        for batch in self.batches:
            yield to_pixels(batch.to(self.device)).float()

    @property
    def images(self) -> TrainingBatches:
        """The batches that contain images."""
        return TrainingBatches([batch for batch in self.batches if batch.ndim == 4], self.device)

    @property
    def clips(self) -> TrainingBatches:
        """The batches that contain clips."""
        return TrainingBatches([batch for batch in self.batches if batch.ndim == 5], self.device)


def load_training_batches(
    trainer: pl.Trainer, samples: int = 256, max_values: int = MAX_VALUES, clips: int | None = None
) -> TrainingBatches:
    """Load batches from the training data of a trainer, without any effect on the run.

    Data modules of Smalti give the same batches in every call, at any step and in resumed runs: with augmentation, from the
    beginning of epoch 0. Data that mixes images and clips gives both. Loaders of other data modules are iterated once more.

    Call it from `on_fit_start` or later, on all ranks together.

    Args:
        trainer: a trainer that runs `fit`.
        samples: minimum number of samples of each kind, over all ranks, unless an epoch has fewer. Every rank loads
            complete batches, and at least one.
        clips: the same number for clips, which take longer to read; None for `samples`.
        max_values: number of pixel values of each kind and rank at which to stop: long clips need memory and time.

    Raises:
        RankError, RankCrashError: the data of a rank cannot be read. All ranks raise it.
    """
    batches: list[Tensor] = []
    error: Exception | None = None
    with isolate_rng():
        try:
            for loader in _loaders(trainer):
                batches += _load(loader, samples, samples if clips is None else clips, max_values)
        except Exception as caught:  # any: the other ranks wait for this one
            error = caught
    if any(gather(error is not None)):
        raise_together(error)
    return TrainingBatches(batches, trainer.strategy.root_device)


def _loaders(trainer: pl.Trainer) -> list[Any]:
    """Return new loaders of training batches, one for each kind of sample."""
    preview = getattr(getattr(trainer, "datamodule", None), "preview_loaders", None)
    if preview is not None:
        return preview()
    loader = trainer.fit_loop._data_source.dataloader()
    return list(loader) if isinstance(loader, (list, tuple)) else [loader]


def _load(loader: Any, images: int, clips: int, max_values: int) -> list[Tensor]:
    """Return batches with at least this process's part of the samples, unless there are too few, or too many values.

    Raises:
        Exception: why a loader that repeats its last batch does so.
    """
    iterator = iter(loader)
    batches = [batch.pixels for batch in islice(iterator, 1)]
    if batches:
        samples = -(-(clips if batches[0].ndim == 5 else images) // world_size())
        count = min(-(-samples // len(batches[0])), max_values // batches[0].numel())
        batches += [batch.pixels for batch in islice(iterator, max(0, count - 1))]
    error = getattr(loader, "error", None)
    if error is not None:
        raise error
    return batches
