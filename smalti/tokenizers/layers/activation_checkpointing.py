"""Activation checkpointing: recompute activations in the backward pass instead of storing them (arXiv 1604.06174)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class CheckpointedBlock(nn.Module):
    """Base class of blocks whose activations can be recomputed in the backward pass. This trades time for memory.

    Subclasses are called like any module, and their parameters keep their names. `forward` runs twice and must return the
    same result each time. It must not update buffers, and must draw random numbers only from the global generators. The
    states of these generators and the autocast mode are restored for the second run.

    Attributes:
        checkpointing: whether activations are recomputed.
    """

    checkpointing: bool = False

    def __call__(self, *args: Any) -> Any:
        """Return the result of `forward`, which takes positional arguments only."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False)
        return super().__call__(*args)


def enable_activation_checkpointing(network: nn.Module) -> int:
    """Enable activation checkpointing in all blocks of a network that support it, and return their number.

    Blocks of diffusers have a mechanism of their own, which is used: `gradient_checkpointing`.
    """
    count = 0
    for module in network.modules():
        if isinstance(module, CheckpointedBlock):
            module.checkpointing = True
            count += 1
        elif hasattr(module, "gradient_checkpointing"):
            block: Any = module
            block.gradient_checkpointing = True
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
            count += 1
    return count
