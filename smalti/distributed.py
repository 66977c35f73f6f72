"""Collective operations for multi-process training. In a single process they return their input.

All ranks must call these functions in the same order. Tensors must be on a device that the backend of the default process
group supports; NCCL requires a GPU. Objects are exchanged over gloo, with any backend.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from smalti.errors import SmaltiError

T = TypeVar("T")
R = TypeVar("R")

OBJECT_TIMEOUT = timedelta(days=7)
"""How long ranks wait for each other's objects. A rank with less work may have finished long before the others."""

_objects: tuple[Any, distributed.ProcessGroup] | None = None
"""The default process group and the group for objects that belongs to it."""


def is_distributed() -> bool:
    """Return whether a process group exists."""
    return distributed.is_available() and distributed.is_initialized()


def world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return distributed.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Return the rank of this process; 0 without a process group."""
    return distributed.get_rank() if is_distributed() else 0


def connect_for_objects() -> None:
    """Connect all ranks for `gather` and `combine_on_rank_0`, which otherwise connect them when they are first called.

    Ranks that are connected before they start to work notice at once if one of them dies, and do not wait for it.
    """
    if is_distributed():
        _object_group()


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in rank order, on every rank.

    Args:
        value: a small object that can be pickled.
    """
    if not is_distributed():
        return [value]
    values: list[T] = [value] * world_size()
    distributed.all_gather_object(values, value, group=_object_group())
    return values


def compute_on_rank_0(function: Callable[[], T]) -> T:
    """Call a function on rank 0 and return its result on every rank.

    Args:
        function: returns an object that can be pickled.

    Raises:
        SmaltiError: the function has raised it. All ranks raise it.
        RuntimeError: the function has raised another error, which rank 0 raises itself.
    """
    return combine_on_rank_0(None, lambda _: function())


def combine_on_rank_0(value: T, combine: Callable[[list[T]], R]) -> R:
    """Collect the values of all ranks on rank 0, combine them there, and return the result on every rank.

    Unlike with `gather`, only rank 0 needs memory for all values.

    Args:
        value: an object that can be pickled.
        combine: computes the result, which can be pickled, from the values in rank order.

    Raises:
        SmaltiError: `combine` has raised it. All ranks raise it.
        RuntimeError: `combine` has raised another error, which rank 0 raises itself.
    """
    if not is_distributed():
        return combine([value])
    group = _object_group()
    values: list[T] | None = [value] * world_size() if rank() == 0 else None
    distributed.gather_object(value, values, dst=0, group=group)
    result: list[Any] = [None, None]
    error: Exception | None = None
    if values is not None:
        try:
            result = [combine(values), None]
        except Exception as caught:  # the other ranks wait for the result
            error = caught
            result = [None, (isinstance(error, SmaltiError), str(error))]
    distributed.broadcast_object_list(result, src=0, group=group)
    if error is not None:
        raise error
    if result[1] is not None:
        for_users, message = result[1]
        raise SmaltiError(message) if for_users else RuntimeError(f"Rank 0 failed: {message}")
    return result[0]


def _object_group() -> distributed.ProcessGroup:
    """Return the process group for objects: over gloo, so that they never pass through a GPU, with a long time limit."""
    global _objects
    world = distributed.group.WORLD
    if _objects is None or _objects[0] is not world:
        group = distributed.new_group(backend="gloo", timeout=OBJECT_TIMEOUT)
        assert isinstance(group, distributed.ProcessGroup)  # this process is a member
        _objects = (world, group)
    return _objects[1]


def disconnect() -> None:
    """Leave the process group of a finished training: what follows runs in this process alone."""
    global _objects
    _objects = None
    if is_distributed():
        distributed.destroy_process_group()


def start_sum_over_ranks(values: Tensor) -> distributed.Work | None:
    """Start to replace values by their sums over all ranks, in place.

    Returns:
        A handle. The values may be read after its `wait()`. None in a single process: the values are final.
    """
    return distributed.all_reduce(values, async_op=True) if world_size() > 1 else None


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sums of values over all ranks, in place; the same tensor in a single process."""
    if world_size() > 1:
        distributed.all_reduce(values)
    return values


def all_gather_rows(rows: Tensor) -> Tensor:
    """Concatenate rows (N, K) of all ranks in rank order. N is equal on all of them."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def broadcast_from_rank_0(values: Tensor) -> Tensor:
    """Replace values by those of rank 0, in place, and return them."""
    if is_distributed():
        distributed.broadcast(values, src=0)
    return values


def mean_over_ranks(*values: Tensor) -> tuple[Tensor, ...]:
    """Average tensors over all ranks with one all-reduce. Every rank has the same weight.

    The values are the global means. The gradient of a mean passes to the local tensor unchanged. After DDP has averaged the
    gradients over the ranks, they equal those of one process with all batches, for any function of the means.

    Args:
        values: tensors of one dtype, of any shapes; each has the same shape on every rank.

    Returns:
        The means, in order; the same tensors in a single process.
    """
    if world_size() == 1:
        return values
    packed = torch.cat([value.detach().flatten() for value in values])
    distributed.all_reduce(packed)
    parts = (packed / world_size()).split([value.numel() for value in values])
    # The difference is zero and has the gradient of the local tensor.
    return tuple(part.view_as(value) + (value - value.detach()) for value, part in zip(values, parts, strict=True))
