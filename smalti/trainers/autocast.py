"""Networks that do not take part in mixed precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def disable_autocast(module: nn.Module) -> None:
    """Make a module compute in float32 inside of `torch.autocast`, too. Its inputs are converted.

    Args:
        module: changed in place.
    """
    contexts: list[torch.autocast] = []

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        device = next((x.device.type for x in inputs if isinstance(x, Tensor)), "cpu")
        contexts.append(torch.autocast(device, enabled=False).__enter__())
        half = (torch.bfloat16, torch.float16)
        return tuple(x.float() if isinstance(x, Tensor) and x.dtype in half else x for x in inputs)

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        contexts.pop().__exit__(None, None, None)

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)
