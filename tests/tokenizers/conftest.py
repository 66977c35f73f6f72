"""Tolerances of tests that compare two computations of the same result."""

import math

import pytest
import torch


@pytest.fixture(scope="session")
def tolerance():
    """Return a function that computes the tolerance between two results of a network, relative to their magnitude.

    In float64, a tolerance of 1e-12 proves that both compute the same function. In float32 they differ by rounding errors:
    the order of summation depends on the chunk length, the memory layout and the CPU. A sum of n products has a relative
    error of about sqrt(n) machine epsilon (rounding errors are random and partly cancel), and the errors of consecutive
    layers add up.
    """

    def compute(dtype, *networks):
        if dtype == torch.float64:
            return 1e-12
        weights = [p for network in networks for p in network.parameters() if p.ndim > 1]
        return torch.finfo(dtype).eps * sum(math.sqrt(weight[0].numel()) for weight in weights)

    return compute


@pytest.fixture(scope="session")
def difference():
    """Return a function that computes the maximum difference of two tensors, relative to max(1, |theirs|)."""

    def compute(ours, theirs):
        assert ours.shape == theirs.shape
        return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max().clamp_min(1))

    return compute
