"""Keeping tensors in their data type when a module is converted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def keep_dtype(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function that moves tensors to the device to which `fn` moves them, and changes nothing else.

    For `nn.Module._apply` of modules that compute in float32 whatever the precision of the training is.

    Args:
        fn: what `nn.Module._apply` gets, for example the conversion of `module.to(device, dtype)`.
    """

    def move(tensor: Tensor) -> Tensor:
        device = fn(tensor.new_empty(0)).device
        return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)

    return move
