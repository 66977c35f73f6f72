"""Parameters that a step leaves alone, under data parallelism.

An image leaves a video tokenizer's temporal layers alone, a step of a joint tokenizer one of its paths, and a step before
the adversary's start its discriminator. In one process such a parameter has no gradient, and the optimizer passes it by: no
momentum, no weight decay. Data parallelism fails for lack of it, or, where it is told to look for unused parameters, gives
all of them gradients of zero as soon as one process used them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn


def reached_leaves(loss: Tensor) -> set[int]:
    """The `id` of each leaf tensor that a gradient of the loss would reach: of its graph, as it was recorded."""
    seen = set()
    found: set[int] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.add(id(leaf))
        waiting += [following for following, _ in node.next_functions]
    return found


class UnusedParameters:
    """Gives data parallelism the gradients that it waits for, and takes them back before the optimizer sees them.

    A parameter is left alone in an optimizer step where no micro-batch of no process reached it.

    Args:
        parameters: all that are trained.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._reached: set[int] = set()

    def complete(self, loss: Tensor) -> Tensor:
        """The loss, with a zero that touches the parameters which it does not reach."""
        reached = reached_leaves(loss)
        self._reached |= reached
        # Sums of nothing: no number is read, so none that is not finite can get in.
        zeros = [p.flatten()[:0].sum(dtype=loss.dtype) for p in self._parameters if id(p) not in reached]
        return torch.stack([loss, *zeros]).sum() if zeros else loss

    def withdraw(self) -> None:
        """Take the gradients of those that nothing reached since the last call; all processes call this together."""
        reached = torch.tensor([id(p) in self._reached for p in self._parameters], dtype=torch.uint8)
        reached = reached.to(self._parameters[0].device)
        distributed.all_reduce(reached, op=distributed.ReduceOp.MAX)
        for parameter, wanted in zip(self._parameters, reached.tolist(), strict=True):
            if not wanted:
                parameter.grad = None
        self._reached = set()
