"""Stopping before a number that is not finite reaches the weights."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from smalti.errors import DivergedError


def check_finite(terms: dict[str, Tensor], step: int, names: list[str]) -> None:
    """Stop all ranks where a scalar of one is not finite; one look at the device for all, and all ranks call it together.

    Args:
        terms: scalars by name.
        step: the optimizer's, to say where it happened.
        names: of the samples in the batch.

    Raises:
        DivergedError: a term is not finite, here or in another process.
    """
    bad = ~torch.isfinite(torch.stack([value.detach() for value in terms.values()]))
    anywhere = bad.any().float()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(anywhere, op=distributed.ReduceOp.MAX)
    if not bool(anywhere):
        return
    if not bad.any():
        raise DivergedError(f"Step {step}: another process met a loss that is not finite.")
    culprits = [name for name, wrong in zip(terms, bad.tolist(), strict=True) if wrong]
    raise DivergedError(
        f"Step {step}: not finite: {', '.join(culprits)}, on the batch {', '.join(names)}. "
        "The weights before this step are in the last checkpoint: look at these files, resume with "
        "--trainer.gradient_clip_val 1, or start from those weights with --warm_start.path and a lower learning rate."
    )
