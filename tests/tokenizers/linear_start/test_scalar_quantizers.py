"""Lloyd-Max quantizers against published values, and the allocation of levels."""

import math

import pytest
import torch

from smalti.tokenizers.linear_start.scalar_quantizers import allocate_levels, bin_centers, histograms, lloyd_max


def gaussian():
    density = torch.exp(-bin_centers(torch.device("cpu")).square() / 2)
    return (density / density.sum()).unsqueeze(0)


@pytest.mark.parametrize(
    ("levels", "error"), [(1, 1.0), (2, 0.3634), (3, 0.1902), (4, 0.1175), (5, 0.07994), (8, 0.03454), (16, 0.009497)]
)
def test_errors_for_a_normal_distribution_are_those_of_max(levels, error):
    """J. Max, "Quantizing for minimum distortion", IRE Transactions on Information Theory 6, 1960, table I."""
    values, measured = lloyd_max(gaussian(), levels)
    assert float(measured) == pytest.approx(error, rel=0.02)  # bins have a width of 0.006 standard deviations
    assert torch.allclose(values, -values.flip(1), atol=0.05)


def test_levels_use_the_budget_and_follow_the_variances():
    frequencies = gaussian().repeat(6, 1)
    variances = torch.tensor([64.0, 16, 4, 1, 0.25, 0.01], dtype=torch.float64)
    levels = allocate_levels(variances, frequencies, bits=10.0)
    assert sum(map(math.log2, levels)) <= 10
    assert sum(map(math.log2, levels)) > 9
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 1


def test_histograms_count_every_value_once():
    x = torch.tensor([[0.0, 100.0], [1.0, -100.0], [1.0, 0.0]])
    counted = histograms([x[:1], x[1:]])
    assert torch.allclose(counted.sum(1), torch.ones(2, dtype=torch.float64))
    assert counted[1, 0] == pytest.approx(1 / 3)
    assert counted[1, -1] == pytest.approx(1 / 3)
