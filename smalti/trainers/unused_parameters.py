"""Handling of parameters that a training step does not use, under data parallelism.

An image does not use the temporal layers of a video tokenizer, a step of a joint tokenizer uses only one of its branches,
and steps before the start of the GAN loss do not use the discriminator. In a single process, such a parameter has no
gradient and the optimizer skips it: no momentum, no weight decay. DDP instead fails if a gradient is missing. With
`find_unused_parameters`, it fills in zero gradients on all processes as soon as one process has used the parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def reached_leaves(loss: Tensor) -> set[int]:
    """Return the `id` of each leaf tensor that receives a gradient from the loss, according to the autograd graph."""
    visited = set()
    leaves: set[int] = set()
    pending = [loss.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaves.add(id(leaf))
        pending += [next_node for next_node, _ in node.next_functions]
    return leaves


class UnusedParameters:
    """Gives DDP the gradients that it waits for, and removes them before the optimizer step.

    The optimizer skips a parameter that no micro-batch of the step used, in any process.

    Args:
        parameters: parameters of the model; those that do not require gradients are ignored.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._reached: set[int] = set()

    def complete(self, loss: Tensor) -> Tensor:
        """Return the loss plus a zero that depends on every parameter that the loss does not reach."""
        reached = reached_leaves(loss)
        self._reached |= reached
        # Sums of empty tensors read no value. A NaN or infinite parameter has no effect.
        zeros = [p.flatten()[:0].sum(dtype=loss.dtype) for p in self._parameters if id(p) not in reached]
        return torch.stack([loss, *zeros]).sum() if zeros else loss

    def reached(self) -> list[bool]:
        """Return for each parameter whether a loss of this process reached it since `remove_gradients`."""
        return [id(p) in self._reached for p in self._parameters]

    def remove_gradients(self, reached: Sequence[bool]) -> None:
        """Remove the gradients of the parameters that no loss of any process reached.

        Args:
            reached: for each parameter, whether `reached` is true in any process.
        """
        for parameter, used in zip(self._parameters, reached, strict=True):
            if not used:
                parameter.grad = None
        self._reached = set()
