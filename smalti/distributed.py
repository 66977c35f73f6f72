"""Collective operations for multi-process training. In a single process they return their input.

All ranks must call these functions in the same order. Tensors must be on a device that the backend supports; NCCL requires
a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def is_distributed() -> bool:
    """Return whether a process group exists."""
    return distributed.is_available() and distributed.is_initialized()


def world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return distributed.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Return the rank of this process; 0 without a process group."""
    return distributed.get_rank() if is_distributed() else 0


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in rank order, on every rank.

    Args:
        value: an object that can be pickled.
    """
    if not is_distributed():
        return [value]
    values: list[T] = [value] * world_size()
    distributed.all_gather_object(values, value)
    return values


def compute_on_rank_0(function: Callable[[], T]) -> T:
    """Call a function on rank 0 and return its result on every rank.

    Args:
        function: returns an object that can be pickled. If it raises an error, every rank raises this error.
    """
    result: T | None = None
    error: Exception | None = None
    if not is_distributed() or distributed.get_rank() == 0:
        try:
            result = function()
        except Exception as raised:
            error = raised
    result, error = gather((result, error))[0]
    if error is not None:
        raise error
    return cast("T", result)


def start_sum_over_ranks(values: Tensor) -> distributed.Work | None:
    """Start to replace values by their sums over all ranks, in place.

    Returns:
        A handle. The values may be read after its `wait()`. None in a single process: the values are final.
    """
    return distributed.all_reduce(values, async_op=True) if world_size() > 1 else None


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
