"""Tolerances of tests that compare two computations of the same result."""

import math

import pytest
import torch


@pytest.fixture(scope="session")
def tolerance():
    """A function that returns the tolerance for two computations of a network's output, relative to its magnitude.

    float64 proves that both compute the same function. In float32 they differ by rounding errors, because chunks of other
    lengths, other memory layouts and other CPUs sum in another order. A sum of n products has a relative error of about
    sqrt(n) machine epsilon (rounding errors are random and partly cancel), and the errors of consecutive layers add up.
    """

    def compute(dtype, *networks):
        if dtype == torch.float64:
            return 1e-12
        weights = [p for network in networks for p in network.parameters() if p.ndim > 1]
        return torch.finfo(dtype).eps * sum(math.sqrt(weight[0].numel()) for weight in weights)

    return compute


@pytest.fixture(scope="session")
def difference():
    """A function that returns the maximum difference of two tensors, relative to the second's magnitude or to 1."""

    def compute(ours, theirs):
        assert ours.shape == theirs.shape
        return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max().clamp_min(1))

    return compute
