"""Building the loaders for training and for evaluation."""

from __future__ import annotations

import copy
import logging
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
from smalti.data.image_transforms import EvaluationTransform
from smalti.data.loader import Loader, TrainingOrder
from smalti.data.sampler import LaneBatchSampler, TrainingPosition, TrainingSampler
from smalti.data.shard_plan import ShardPlan
from smalti.data.shards import Shards
from smalti.data.sources import IndexedSource, Source
from smalti.errors import SmaltiError

logger = logging.getLogger("smalti.data")


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
    world_size: int = 1,
    get_position: Callable[[], TrainingPosition] = TrainingPosition,
    as_uint8: bool = False,
) -> Loader:
    """Build a loader of complete training batches. Order and augmentation depend only on seed, epoch and index.

    Workers are kept from one epoch to the next. Call `close` to stop them when the loader is no longer needed.

    Args:
        source: images or videos, in files or shards.
        transform: random transform of each image, or of each video (`ClipTransform`).
        batch_size: samples per process.
        workers: number of worker processes; 0 to load in the main process. The batches do not depend on it.
        repeats: how often each file is used per epoch, each time with a different augmentation. For shards, an epoch has
            their `samples` times `repeats`.
        seed: seed for shuffling and augmentation.
        max_bad: maximum fraction of unreadable samples; see `Loader`.
        rank: rank of this process.
        world_size: number of processes.
        get_position: returns the training position. It is called at the start of each iteration.
        as_uint8: whether to yield 8-bit pixels unconverted, to be converted by `smalti.pixels.to_pixels` on another device.

    Raises:
        SmaltiError: an epoch has less than one batch per process, shards contain no samples, or must be counted but are not
            local, a number is out of range, or the transform is for the other kind of source.
    """
    _check_kind(source, transform)
    for name, value in {"batch_size": batch_size, "repeats": repeats}.items():
        if value < 1:
            raise SmaltiError(f"{name} is {value}: give at least 1.")
    indexed = isinstance(source, IndexedSource)
    samples = repeats * (len(source) if indexed else _samples_per_epoch(_as_shards(source), rank))
    if samples // world_size < batch_size:
        raise SmaltiError(
            f"An epoch of {source} has {samples} samples, fewer than one batch of {batch_size} on each of {world_size} "
            "processes: decrease batch_size, or increase repeats."
        )
    settings = {"samples": samples, "batch_size": batch_size, "processes": world_size, "seed": seed}
    options = _worker_options(workers, keep=True)
    sampler = TrainingSampler(
        samples, shuffle=indexed, rank=rank, world_size=world_size, seed=seed, batch_size=batch_size
    )
    if indexed:
        dataset = IndexedTrainingDataset(source, transform, seed)
        batches = DataLoader(dataset, batch_size=batch_size, sampler=sampler, drop_last=True, **options)
    else:
        shards = _as_shards(source)
        plan = ShardPlan(
            shards.sizes(), samples=samples, batch_size=batch_size, lanes=shards.num_lanes(world_size),
            world_size=world_size, seed=seed,
        )  # fmt: skip
        if rank == 0 and workers > plan.num_lanes:
            logger.warning(
                "%d of %d workers are idle, because %s are read in %d lanes: set `lanes` to at least the number of "
                "workers, or give more shards.", workers - plan.num_lanes, workers, shards, plan.num_lanes,
            )  # fmt: skip
        settings |= {"shards": len(shards.urls), "lanes": plan.num_lanes, "buffer": shards.buffer}
        dataset = ShardTrainingDataset(shards, transform, seed, plan)
        lanes = LaneBatchSampler(sampler, batch_size, lambda epoch: plan.plan_rank(epoch, rank).batch_lanes, workers)
        batches = DataLoader(dataset, batch_sampler=lanes, **options)
    order = TrainingOrder(sampler, get_position, settings)
    return Loader(
        batches, source=str(source), max_bad=max_bad, samples=samples // world_size, as_uint8=as_uint8, order=order,
        keep_errors=world_size > 1,
    )  # fmt: skip


def preview_loader(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    repeats: int,
    seed: int,
    max_bad: float,
    rank: int,
    world_size: int,
) -> Loader:
    """Build a loader of training batches that has no effect on the training loader and starts no workers.

    Batches of files are the first ones of epoch 0. Shards are read in small blocks: their batches come from the same places
    but are shuffled less, because filling the buffer of the training loader can take long.

    Args:
        source: as in `training_loader`, like the other arguments.
        transform: random transform of each sample.
        batch_size: samples per process.
        repeats: how often each sample is used per epoch.
        seed: seed for shuffling and augmentation.
        max_bad: maximum fraction of unreadable samples.
        rank: rank of this process.
        world_size: number of processes.
    """
    if isinstance(source, Shards):
        _samples_per_epoch(source, rank)  # counted once, for both loaders
        lanes = source.num_lanes(world_size)
        source = copy.copy(source)
        source.buffer = min(source.buffer, lanes * max(1, batch_size))
    return training_loader(
        source, transform, batch_size=batch_size, repeats=repeats, seed=seed, max_bad=max_bad, rank=rank,
        world_size=world_size, as_uint8=True,
    )  # fmt: skip


def evaluation_loader(
    source: Source,
    transform: Transform | None,
    batch_size: int = 1,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    max_bad: float = 0.01,
    keep_workers: bool = False,
    as_uint8: bool = False,
) -> Loader:
    """Build a loader that yields every sample exactly once over all processes. Unreadable samples are left out and logged.

    Files come in order: process `rank` gets every world_size-th file, starting with file `rank`. The transform cuts one
    clip from each video. Local shards are dealt by samples: each process, and each of its workers, reads consecutive
    samples in equal numbers, give or take one. URLs are dealt as a whole; if there are fewer URLs than workers, some
    workers are idle. Processes may get different numbers of batches.

    The samples of local shards are counted first. If `world_size` is not 1 and a process group exists, rank 0 counts for
    all ranks, which must then call this in the same order.

    Args:
        source: images or videos, in files or shards.
        transform: deterministic transform of each image, or of each video (`ClipTransform`), to one size. None for
            complete images or videos of their original size, one per batch; `batch_size` is ignored then.
        batch_size: samples per process. The last batch, and batches with unreadable samples, are smaller.
        workers: number of worker processes; 0 to load in the main process.
        rank: rank of this process.
        world_size: number of processes.
        max_bad: maximum fraction of unreadable samples; see `Loader`.
        keep_workers: whether to keep the workers for the next iteration. Call `close` to stop them when the loader is no
            longer needed.
        as_uint8: whether to yield 8-bit pixels unconverted, as in `training_loader`.

    Raises:
        SmaltiError: a number is out of range, or the transform is for the other kind of source; while iterating, too many
            samples are unreadable.
    """
    if batch_size < 1:
        raise SmaltiError(f"batch_size is {batch_size}: give at least 1.")
    if transform is None:
        batch_size = 1
        transform = (
            VideoEvaluationTransform(None, resize=None, crop=None) if source.videos else EvaluationTransform(None, None)
        )
    _check_kind(source, transform)
    options = _worker_options(workers, keep_workers)
    samples = None
    if isinstance(source, IndexedSource):
        indices = range(rank, len(source), world_size)
        samples = len(indices)
        dataset = IndexedEvaluationDataset(source, transform)
        batches = DataLoader(dataset, batch_size=batch_size, sampler=indices, **options)
    else:
        shards = _as_shards(source)
        if world_size > 1:
            shards.share_sizes()
        dataset = ShardEvaluationDataset(shards, transform, rank, world_size)
        batches = DataLoader(dataset, batch_size=batch_size, **options)
    return Loader(batches, source=str(source), max_bad=max_bad, samples=samples, as_uint8=as_uint8)


def _samples_per_epoch(shards: Shards, rank: int) -> int:
    """Return the number of samples of a training epoch over all processes, before repeats."""
    shards.share_sizes()
    count = shards.count_samples()
    if not count:
        raise SmaltiError(f"The shards {shards} contain no {'videos' if shards.videos else 'images'}: check the path.")
    if shards.samples is None:
        shards.samples = count
        if rank == 0:
            logger.info("The shards %s contain %d samples.", shards, count)
    return shards.samples


def _check_kind(source: Source, transform: Transform) -> None:
    """Check that the transform takes what the source contains: images or videos.

    Raises:
        SmaltiError: it does not.
    """
    if source.videos != isinstance(transform, ClipTransform):
        actual, expected = ("videos", "images") if source.videos else ("images", "videos")
        raise SmaltiError(
            f"{source} contains {actual}, but {expected} are expected: use other data, or a recipe for {actual}."
        )


def _as_shards(source: Source) -> Shards:
    if not isinstance(source, Shards):
        raise TypeError(f"{type(source).__name__} is neither an IndexedSource nor Shards.")
    return source


def _worker_options(workers: int, keep: bool) -> dict[str, Any]:
    if workers < 0:
        raise SmaltiError(f"workers is {workers}: give 0 or more.")
    return {
        "collate_fn": collate,
        "num_workers": workers,
        "persistent_workers": keep and workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }
