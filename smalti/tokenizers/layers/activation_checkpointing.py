"""Blocks whose inner results may be computed again in the backward pass instead of being kept: time for memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class CheckpointedBlock(nn.Module):
    """A block that can forget what it computed and compute it again when gradients want it (arXiv 1604.06174).

    A subclass is called as any module is, and its parameters keep their names. It must compute the same when it is called
    again: it updates no buffer, and draws random numbers from the global generators alone, whose states are put back for
    the second time, as autocast is.

    Attributes:
        checkpointing: whether it does; a trainer sets it.
    """

    checkpointing: bool = False

    def __call__(self, *args: Any) -> Any:
        """What `forward` returns."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False)
        return super().__call__(*args)


def enable_activation_checkpointing(network: nn.Module) -> int:
    """Let every block of a network that can be recomputed be so from now on; returns how many there are."""
    blocks = [block for block in network.modules() if isinstance(block, CheckpointedBlock)]
    for block in blocks:
        block.checkpointing = True
    return len(blocks)
