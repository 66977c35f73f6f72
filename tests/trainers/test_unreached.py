"""Which parameters a loss reaches, and what those get that it does not."""

import pytest
import torch
from torch import distributed, nn
from torch.utils.checkpoint import checkpoint

from smalti.trainers.unused_parameters import UnusedParameters, reached_leaves


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


@pytest.fixture
def alone(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_leaves_are_those_that_get_a_gradient():
    """Through recomputed blocks and functions by hand; not what is detached, constant, or not part of it."""
    used, recomputed, cut, frozen, other = (nn.Parameter(torch.ones(2)) for _ in range(5))
    frozen.requires_grad_(False)
    h = checkpoint(lambda x: (x * recomputed).sin(), Doubled.apply(used), use_reentrant=False)
    loss = (h * frozen + (cut * h).detach()).sum()
    assert reached_leaves(loss) == {id(used), id(recomputed)}
    loss.backward()
    assert [p.grad is not None for p in (used, recomputed, cut, frozen, other)] == [True, True, False, False, False]


def test_what_no_micro_batch_reached_has_no_gradient(alone):
    a, b, never = (nn.Parameter(torch.full((3, 2), float(i))) for i in (1, 2, 3))
    with torch.no_grad():
        never[0, 0] = float("inf")  # its zero must not read it
    unreached = UnusedParameters([a, b, never])
    for used in (a, b):
        loss = (used**2).sum()
        completed = unreached.complete(loss)
        assert completed == loss
        completed.backward()
        assert all(p.grad is not None for p in (a, b, never))
    assert not never.grad.any()
    unreached.withdraw()
    assert torch.equal(a.grad, 2 * a)
    assert torch.equal(b.grad, 2 * b)
    assert never.grad is None
    unreached.complete((b**2).sum()).backward()  # the next step begins anew
    unreached.withdraw()
    assert a.grad is None
