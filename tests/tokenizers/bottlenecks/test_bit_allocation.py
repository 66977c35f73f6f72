"""Bits go where they remove most of the squared error."""

import torch

from smalti.tokenizers.bottlenecks.bit_allocation import allocate_bits

BINARY = [1, 2, 4, 8, 16, 32]


def components():
    torch.manual_seed(0)
    return torch.randn(4096, 12), 2.0 ** -torch.arange(12.0)


def test_bits_go_to_the_components_with_the_largest_errors():
    free, lost = allocate_bits(*components(), 16, BINARY)
    assert sum(free) == 16
    assert free == sorted(free, reverse=True)
    assert 0 < lost < 0.1
    limited, lost_with_limit = allocate_bits(*components(), 16, BINARY, hidden_units=40)
    assert sum(limited) == 16
    assert sum(2**b for b in limited if b) <= 40
    assert max(limited) < max(free)
    assert lost_with_limit > lost


def test_bits_that_no_component_can_use_remain():
    coefficients, variances = components()
    bits, lost = allocate_bits(coefficients[:, :2], variances[:2], 16, [1, 2, 3])
    assert bits == [2, 2]
    assert abs(lost - 0.19) < 0.02  # Lloyd-Max with three levels on a normal distribution: 0.1902 of the variance
