"""Stopping training before a NaN or infinite loss or gradient reaches the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from smalti.errors import DivergedError


def check_finite(
    values: Mapping[str, Tensor], step: int, samples: Sequence[str], diverged_ranks: Sequence[int] = ()
) -> None:
    """Raise an error if a value is NaN or infinite in this process or, according to `diverged_ranks`, in another one.

    Args:
        values: scalars of this process by name.
        step: the optimizer step, for the error message.
        samples: names of the samples of the step, for the error message.
        diverged_ranks: ranks with a value that is NaN or infinite.

    Raises:
        DivergedError: a value is NaN or infinite.
    """
    names = [name for name, value in values.items() if not bool(torch.isfinite(value).all())]
    if names:
        raise DivergedError(
            f"Step {step}: NaN or infinite: {', '.join(names)}, on the batch {', '.join(samples)}. "
            "The weights before this step are in the last checkpoint: check these files, resume with "
            "--trainer.gradient_clip_val 1, or start from those weights with --warm_start.path and a lower learning rate."
        )
    if diverged_ranks:
        ranks = ", ".join(map(str, diverged_ranks))
        raise DivergedError(f"Step {step}: a value is NaN or infinite in another process (rank {ranks}).")


class BufferBackup:
    """Copies of the buffers of modules, such as LeCAM's averages, the statistics of batch norms, and learned codebooks.

    A forward pass updates them before it is known whether its losses are finite.

    Args:
        modules: the modules.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._buffers = [buffer for module in modules for buffer in module.buffers()]
        self._copies = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def restore(self) -> None:
        """Write the copies back to the buffers."""
        for buffer, copy in zip(self._buffers, self._copies, strict=True):
            buffer.copy_(copy)
