"""Compilation of the trained networks by `torch.compile`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from smalti.errors import SmaltiError


def compile_network(network: nn.Module) -> None:
    """Compile a network in place, for calls that record gradients.

    The first call with a new shape compiles the whole network to one graph for this shape, without graph breaks. Calls
    without gradients, as in validation, are not compiled: validation has other shapes, passes generators, and carries
    state from chunk to chunk. The names of the weights do not change, and a copy of the network is not compiled.

    Args:
        network: changed in place.
    """
    # DDP would otherwise split graphs at the borders of its buckets, which fails with gradient checkpointing.
    torch._dynamo.config.optimize_ddp = False
    # What `network.compile()` would set, with a wrapper. nn.Module calls it instead of `forward` with its hooks, and does
    # not copy or save it.
    network._compiled_call_impl = _CompiledCall(network)


class _CompiledCall:
    """Calls a network: compiled if gradients are recorded.

    Raises:
        SmaltiError: the network cannot be compiled, or was called with too many shapes.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._compiled = torch.compile(network._call_impl, fullgraph=True, dynamic=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._network._call_impl(*args, **kwargs)
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        name = type(self._network).__name__
        try:
            return self._compiled(*args, **kwargs)
        except FailOnRecompileLimitHit as error:
            raise SmaltiError(
                f"{name} was called with more than {torch._dynamo.config.recompile_limit} combinations of shape and "
                "settings, and compile makes one graph for each: train with fewer sizes, or remove compile from the recipe."
            ) from error
        except TorchDynamoException as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise SmaltiError(
                f"{name} cannot be compiled to one graph ({reason}): remove compile from the recipe. On a CPU, compiling "
                "needs a C++ compiler such as g++; on a GPU, it needs Triton and a C compiler."
            ) from error
