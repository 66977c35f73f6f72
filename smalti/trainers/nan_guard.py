"""Stopping training before a NaN or infinite loss or gradient reaches the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.distributed import max_over_ranks
from smalti.errors import DivergedError


def check_finite(values: dict[str, Tensor], step: int, samples: list[str]) -> None:
    """Stop all ranks if a value is NaN or infinite on any of them. All ranks must call this together.

    All values share one synchronization with the device.

    Args:
        values: scalars by name.
        step: the optimizer step, for the error message.
        samples: names of the samples in the batch, for the error message.

    Raises:
        DivergedError: a value is NaN or infinite, in this process or another.
    """
    bad = ~torch.isfinite(torch.stack([value.detach() for value in values.values()]))
    if not bool(max_over_ranks(bad.any().float())):
        return
    if not bad.any():
        raise DivergedError(f"Step {step}: a value is NaN or infinite in another process.")
    names = [name for name, is_bad in zip(values, bad.tolist(), strict=True) if is_bad]
    raise DivergedError(
        f"Step {step}: NaN or infinite: {', '.join(names)}, on the batch {', '.join(samples)}. "
        "The weights before this step are in the last checkpoint: check these files, resume with "
        "--trainer.gradient_clip_val 1, or start from those weights with --warm_start.path and a lower learning rate."
    )
