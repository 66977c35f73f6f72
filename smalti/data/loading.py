"""Loaders of batches, for training and for evaluation, and the source that a command's `--data` names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from smalti.data.folders import Folder
from smalti.data.loader import Loader, Training
from smalti.data.photos import Photos
from smalti.data.sampling import Position, TrainingSampler
from smalti.data.shards import Shards
from smalti.data.sources import Files, Images, Source
from smalti.data.transforms import to_pixels
from smalti.data.views import (
    EvaluationImages,
    EvaluationShards,
    TrainingImages,
    TrainingShards,
    Transform,
    collate,
)
from smalti.errors import SmaltiError


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
        source: images or shards.
        transform: of each image, random.
        batch_size: of one process.
        workers: processes that read and transform; 0: none besides this one. The batches do not depend on it.
        repeats: times that an epoch visits each image, each time with another augmentation; images only.
        seed: of order and augmentation.
        max_bad: greatest share of samples that may be skipped; see `Loader`.
        rank: of this process.
        world: number of processes.
        position: asked at the start of each iteration which epoch it is of, and how many batches of it are done already.

    Raises:
        SmaltiError: less than one batch a process, fewer shards than processes, shards without `samples`, or a bad number.
    """
    for name, value in {"batch_size": batch_size, "repeats": repeats}.items():
        if value < 1:
            raise SmaltiError(f"{name} is {value}: give at least 1.")
    samples = _epoch_of(source, repeats, world)
    if samples // world < batch_size:
        raise SmaltiError(
            f"An epoch of {source} has {samples} samples, fewer than one batch of {batch_size} on each of {world} "
            f"processes: make batch_size smaller, or repeats (of shards: samples) greater."
        )
    if isinstance(source, Images):
        view = TrainingImages(source, transform, seed)
    else:
        view = TrainingShards(_shards(source), transform, seed, batch_size, rank, world)
    sampler = TrainingSampler(
        samples, shuffle=isinstance(source, Images), rank=rank, world=world, seed=seed, batch_size=batch_size
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

    Images come in their order, every world-th on each process. Shards are dealt whole, to processes and to their workers:
    where there are fewer, some have nothing to do. Processes may get different numbers of batches.

    Args:
        source: images or shards.
        transform: of each image, to one size; None: the images as they are, one at a time, and `batch_size` is not used.
        batch_size: of one process; the last batch, and one with skipped samples, is smaller.
        workers: processes that read and transform; 0: none besides this one.
        rank: of this process.
        world: number of processes.
        max_bad: greatest share of samples that may be skipped; see `Loader`.
        keep_workers: for the next iteration; then `close` the loader when done.

    Raises:
        SmaltiError: a number is out of range; while iterating, more was skipped than may be.
    """
    if batch_size < 1:
        raise SmaltiError(f"batch_size is {batch_size}: give at least 1.")
    size = batch_size if transform else 1
    options = _workers(workers, keep_workers)
    transform = transform or to_pixels
    if isinstance(source, Images):
        mine = range(rank, len(source), world)
        samples = len(mine)
        batches = DataLoader(EvaluationImages(source, transform), batch_size=size, sampler=mine, **options)
    else:
        samples = None
        batches = DataLoader(EvaluationShards(_shards(source), transform, rank, world), batch_size=size, **options)
    return Loader(batches, source=str(source), max_bad=max_bad, samples=samples)


def open_source(spec: str) -> Source:
    """The source that a command's `--data` names.

    Args:
        spec: a folder, an image file, shards (a path, pattern or URL that holds ".tar"), or "photos:" and a split.

    Raises:
        SmaltiError: it is none of these, or the source cannot be opened.
    """
    if spec.startswith("photos:"):
        return Photos(spec.removeprefix("photos:"))  # pyright: ignore[reportArgumentType] - Photos checks it
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        return Folder(path)
    if ".tar" in spec:
        return Shards(spec)
    if spec and path.is_file():
        return Files([path])
    raise SmaltiError(
        f"'{spec}' is no data: give a folder of images, an image file, shards ('photos-{{000..009}}.tar', a glob or a "
        "URL), or photos:validation, photos:train or photos:all."
    )


def _epoch_of(source: Source, repeats: int, world: int) -> int:
    """Samples of an epoch over all processes."""
    if isinstance(source, Images):
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


def _shards(source: Source) -> Shards:
    if not isinstance(source, Shards):
        raise TypeError(f"{type(source).__name__} is neither Images nor Shards.")
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
