"""Parameters that a loss does not reach, and their gradients."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from smalti.trainers.unused_parameters import UnusedParameters, reached_leaves


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def test_reached_leaves_are_those_with_a_gradient():
    """Recomputed blocks and custom functions are followed. Detached, frozen and unrelated parameters are not reached."""
    used, recomputed, detached, frozen, other = (nn.Parameter(torch.ones(2)) for _ in range(5))
    frozen.requires_grad_(False)
    h = checkpoint(lambda x: (x * recomputed).sin(), Doubled.apply(used), use_reentrant=False)
    loss = (h * frozen + (detached * h).detach()).sum()
    assert reached_leaves(loss) == {id(used), id(recomputed)}
    loss.backward()
    parameters = (used, recomputed, detached, frozen, other)
    assert [p.grad is not None for p in parameters] == [True, True, False, False, False]


def test_parameters_that_no_micro_batch_reached_have_no_gradient():
    a, b, never = (nn.Parameter(torch.full((3, 2), float(i))) for i in (1, 2, 3))
    with torch.no_grad():
        never[0, 0] = float("inf")  # the added zero must not read this value
    unused = UnusedParameters([a, b, never])
    for used in (a, b):
        loss = (used**2).sum()
        completed = unused.complete(loss)
        assert completed == loss
        completed.backward()
        assert all(p.grad is not None for p in (a, b, never))
    assert not never.grad.any()
    assert unused.reached() == [True, True, False]
    unused.remove_gradients([True, True, False])
    assert torch.equal(a.grad, 2 * a)
    assert torch.equal(b.grad, 2 * b)
    assert never.grad is None
    unused.complete((b**2).sum()).backward()  # the next step starts over
    unused.remove_gradients(unused.reached())
    assert a.grad is None
