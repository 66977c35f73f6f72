"""Helpers for several processes. Each does nothing special in a single process.

All ranks must call these functions, in the same order. Tensors stay on the device they come on: NCCL accepts no other.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def is_distributed() -> bool:
    """Return whether a process group exists."""
    return distributed.is_available() and distributed.is_initialized()


def world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return distributed.get_world_size() if is_distributed() else 1


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in rank order, on every rank.

    Args:
        value: anything that can be pickled.
    """
    if not is_distributed():
        return [value]
    values: list[T] = [value] * world_size()
    distributed.all_gather_object(values, value)
    return values


def max_over_ranks(values: Tensor) -> Tensor:
    """Return the elementwise maximum over all ranks, in place."""
    if is_distributed():
        distributed.all_reduce(values, op=distributed.ReduceOp.MAX)
    return values


def broadcast_from_rank_0(values: Tensor) -> Tensor:
    """Return rank 0's values on every rank, in place."""
    if is_distributed():
        distributed.broadcast(values, src=0)
    return values


def mean_over_ranks(*values: Tensor) -> tuple[Tensor, ...]:
    """Average tensors of one dtype over all ranks, with one all-reduce.

    The value is the global mean; the gradient is that of this rank's own part. Averaged over the ranks, as DDP does, it is
    exactly the gradient that one process with all the batches would have, for any function of the means. Every rank
    counts equally.

    Args:
        values: tensors of any shapes, the same on every rank.

    Returns:
        The means, in order; the same tensors in a single process.
    """
    if world_size() == 1:
        return values
    packed = torch.cat([value.detach().flatten() for value in values])
    distributed.all_reduce(packed)
    parts = (packed / world_size()).split([value.numel() for value in values])
    # The value of the mean with the gradient of the local tensor.
    return tuple(part.view_as(value) + (value - value.detach()) for value, part in zip(values, parts, strict=True))
