"""Loaders of batches, for training and for evaluation, and the source that a command's `--data` names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader

from smalti.data.clip_transforms import ClipTransform, VideoEvaluationTransform
from smalti.data.datasets import (
    IndexedEvaluationDataset,
    IndexedTrainingDataset,
    ShardEvaluationDataset,
    ShardTrainingDataset,
    Transform,
    collate,
)
from smalti.data.loader import Loader, Training
from smalti.data.sampler import Position, TrainingSampler
from smalti.data.shards import Shards
from smalti.data.sources import IndexedSource, Source
from smalti.errors import SmaltiError
from smalti.pixels import image_to_pixels


def training_loader(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    workers: int = 0,
    repeats: int = 1,
    seed: int = 0,
    max_bad: float = 0.01,
    rank: int = 0,
    world: int = 1,
    position: Callable[[], Position] = Position,
) -> Loader:
    """Whole batches for training, whose order and augmentation are decided by the seed, the epoch and the index alone.

    Workers are kept from one epoch to the next: `close` the loader when done.

    Args:
        source: images or videos, in files or shards.
        transform: of each image, or of each video (`ClipTransform`), random.
        batch_size: of one process.
        workers: processes that read and transform; 0: none besides this one. The batches do not depend on it.
        repeats: times that an epoch visits each file, each time with another augmentation; not of shards.
        seed: of order and augmentation.
        max_bad: greatest share of samples that may be skipped; see `Loader`.
        rank: of this process.
        world: number of processes.
        position: asked at the start of each iteration which epoch it is of, and how many batches of it are done already.

    Raises:
        SmaltiError: less than one batch a process, fewer shards than processes, shards without `samples`, a bad number, or
            a transform for the other kind of source.
    """
    _check_kind(source, transform)
    for name, value in {"batch_size": batch_size, "repeats": repeats}.items():
        if value < 1:
            raise SmaltiError(f"{name} is {value}: give at least 1.")
    samples = _epoch_of(source, repeats, world)
    if samples // world < batch_size:
        raise SmaltiError(
            f"An epoch of {source} has {samples} samples, fewer than one batch of {batch_size} on each of {world} "
            f"processes: make batch_size smaller, or repeats (of shards: samples) greater."
        )
    if isinstance(source, IndexedSource):
        view = IndexedTrainingDataset(source, transform, seed)
    else:
        view = ShardTrainingDataset(_shards(source), transform, seed, batch_size, rank, world)
    sampler = TrainingSampler(
        samples, shuffle=isinstance(source, IndexedSource), rank=rank, world=world, seed=seed, batch_size=batch_size
    )
    description = {"samples": samples, "batch_size": batch_size, "processes": world, "seed": seed}
    return Loader(
        DataLoader(view, batch_size=batch_size, sampler=sampler, drop_last=True, **_workers(workers, keep=True)),
        source=str(source),
        max_bad=max_bad,
        samples=samples // world,
        training=Training(sampler, position, description),
    )


def evaluation_loader(
    source: Source,
    transform: Transform | None,
    batch_size: int = 1,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    max_bad: float = 0.01,
    keep_workers: bool = False,
) -> Loader:
    """Every sample exactly once over all processes; what cannot be read is left out, counted and named in the log.

    Files come in their order, every world-th on each process; of a video, the transform takes one clip. Shards are dealt
    whole, to processes and to their workers: where there are fewer, some have nothing to do. Processes may get different
    numbers of batches.

    Args:
        source: images or videos, in files or shards.
        transform: of each image, or of each video (`ClipTransform`), to one size; None: the images or the whole videos as
            they are, one at a time, and `batch_size` is not used.
        batch_size: of one process; the last batch, and one with skipped samples, is smaller.
        workers: processes that read and transform; 0: none besides this one.
        rank: of this process.
        world: number of processes.
        max_bad: greatest share of samples that may be skipped; see `Loader`.
        keep_workers: for the next iteration; then `close` the loader when done.

    Raises:
        SmaltiError: a number is out of range, or the transform is for the other kind of source; while iterating, more was
            skipped than may be.
    """
    if batch_size < 1:
        raise SmaltiError(f"batch_size is {batch_size}: give at least 1.")
    size = batch_size if transform else 1
    options = _workers(workers, keep_workers)
    if transform is None:
        transform = VideoEvaluationTransform(None, resize=None, crop=None) if source.videos else image_to_pixels
    _check_kind(source, transform)
    if isinstance(source, IndexedSource):
        mine = range(rank, len(source), world)
        samples = len(mine)
        batches = DataLoader(IndexedEvaluationDataset(source, transform), batch_size=size, sampler=mine, **options)
    else:
        samples = None
        batches = DataLoader(ShardEvaluationDataset(_shards(source), transform, rank, world), batch_size=size, **options)
    return Loader(batches, source=str(source), max_bad=max_bad, samples=samples)


def _epoch_of(source: Source, repeats: int, world: int) -> int:
    """Samples of an epoch over all processes."""
    if isinstance(source, IndexedSource):
        return len(source) * repeats
    shards = _shards(source)
    if shards.samples is None:
        raise SmaltiError(f"Training on {source} needs Shards' samples: give the number that counts as an epoch.")
    if repeats != 1:
        raise SmaltiError(f"repeats is {repeats}, but {source} are shards: give Shards' samples instead.")
    if len(shards.urls) < world:
        raise SmaltiError(
            f"{source} has {len(shards.urls)} shards for {world} processes: write more and smaller ones, at least one each."
        )
    return shards.samples


def _check_kind(source: Source, transform: Transform) -> None:
    """Refuse a transform of clips for images, and one of images for videos."""
    if source.videos != isinstance(transform, ClipTransform):
        has, wanted = ("videos", "images") if source.videos else ("images", "videos")
        raise SmaltiError(f"{source} holds {has}, and {wanted} are wanted: give other data, or a recipe for {has}.")


def _shards(source: Source) -> Shards:
    if not isinstance(source, Shards):
        raise TypeError(f"{type(source).__name__} is neither Indexed nor Shards.")
    return source


def _workers(workers: int, keep: bool) -> dict[str, Any]:
    if workers < 0:
        raise SmaltiError(f"workers is {workers}: give 0 or more.")
    return {
        "collate_fn": collate,
        "num_workers": workers,
        "persistent_workers": keep and workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }
