"""Keeping tensors in their data type when a module is converted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by size in bytes."""


def view_bits(tensor: Tensor) -> Tensor:
    """Return a view of the bits of a tensor as integers of the same size."""
    return tensor.view(_INTEGERS[tensor.element_size()])


def keep_dtype(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function that moves tensors to the device to which `fn` moves them, and changes nothing else.

    For `nn.Module._apply` of modules that compute in float32 whatever the precision of the training is.

    Args:
        fn: what `nn.Module._apply` gets, for example the conversion of `module.to(device, dtype)`.
    """

    def move(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return fn(tensor)
        # Conversions of modules change floating-point tensors only: `fn` moves the bits of an integer tensor.
        return fn(view_bits(tensor)).view(tensor.dtype)

    return move
