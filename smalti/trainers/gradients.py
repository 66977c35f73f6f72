"""Norms, clipping and averaging of gradients, which may be sharded over the processes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from smalti.distributed import mean_over_ranks, world_size
from smalti.trainers.sharding import local_part


def gradient_norm(parameters: Iterable[Tensor], device: torch.device) -> Tensor:
    """Return the norm of the gradients of all parameters. If they are sharded, all ranks must call this.

    Args:
        parameters: parameters without a gradient are ignored.
        device: the device of the model.

    Returns:
        A scalar on the device, also if there are no gradients. It is the same on all ranks if the gradients are.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    shards = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    norm = torch.nn.utils.get_total_norm(whole) if whole else torch.zeros((), device=device)
    if not shards:
        return norm
    square = torch.nn.utils.get_total_norm(shards).square()
    if world_size() > 1:
        distributed.all_reduce(square)
    return (norm.square() + square).sqrt()


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], limit: float, norm: Tensor) -> None:
    """Scale gradients so that their norm is at most the limit, as `torch.nn.utils.clip_grads_with_norm_` does.

    All gradients are scaled at once, not one after the other, also if some are shards and some are not.

    Args:
        parameters: parameters without a gradient are ignored.
        limit: maximum norm.
        norm: the norm, from `gradient_norm`.
    """
    if gradients := _local_gradients(parameters):
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]


@torch.no_grad()
def clip_gradient_values(parameters: Iterable[Tensor], limit: float) -> None:
    """Clamp each value of the gradients to [-limit, limit]."""
    if gradients := _local_gradients(parameters):
        torch._foreach_clamp_min_(gradients, -limit)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_clamp_max_(gradients, limit)  # pyright: ignore[reportPrivateImportUsage]


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their means over all ranks, with one all-reduce per data type.

    Args:
        parameters: parameters without a gradient are ignored; each has one on all ranks or on none.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        same = [gradient for gradient in gradients if gradient.dtype == dtype]
        for gradient, mean in zip(same, mean_over_ranks(*same), strict=True):
            gradient.copy_(mean)


def _local_gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [local_part(p.grad) for p in parameters if p.grad is not None]
