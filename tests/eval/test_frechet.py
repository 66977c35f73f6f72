"""The Fréchet distance: equality with its definition, merging of parts, and bounded memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from smalti.eval.frechet import FeatureStatistics, frechet_distance


def statistics(x, blocks=1):
    result = FeatureStatistics(x.shape[1])
    for block in x.chunk(blocks):
        result.add(block)
    return result


def by_definition(x, y):
    """Compute arXiv 1706.08500, eq. 6, with scipy's matrix square root."""
    a, b = (np.cov(z.numpy(), rowvar=False) for z in (x, y))
    mean = ((x.mean(0) - y.mean(0)) ** 2).sum().item()
    return mean + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))


def random_features(seed, n, m, dim):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    x, y = (torch.randn(k, dim, generator=generator, dtype=torch.float64) for k in (n, m))
    return x @ mix + 3, y @ mix.T * 0.7 + 2.5


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(12, 80), st.integers(12, 80), st.integers(2, 8), st.integers(1, 9))
def test_the_distance_equals_its_definition(seed, n, m, dim, blocks):
    x, y = random_features(seed, n, m, dim)
    assert frechet_distance(statistics(x, blocks), statistics(y, blocks)) == pytest.approx(
        by_definition(x, y), rel=1e-6, abs=1e-6
    )


@pytest.mark.parametrize(("n", "m"), [(5, 5), (5, 400), (400, 5), (400, 400)])
def test_fewer_and_more_samples_than_features(n, m):
    x, y = random_features(1, n, m, 24)
    # A rank-deficient product has no accurate matrix square root, so compare with the eigenvalues of a symmetric one.
    a, b = (torch.cov(z.T) for z in (x, y))
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * trace
    assert frechet_distance(statistics(x, 7), statistics(y, 7)) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("n", [2, 10, 300])
def test_equal_sets_have_distance_zero(n):
    x, _ = random_features(2, n, 2, 16)
    scale = x.var(0).sum().item()
    assert frechet_distance(statistics(x), statistics(x, 3)) <= 1e-9 * scale
    assert frechet_distance(statistics(x), statistics(x + 1)) == pytest.approx(16, rel=1e-6)  # only the means differ


def test_parts_merge_to_the_whole_in_any_order():
    x, y = random_features(3, 500, 90, 12)
    parts = [statistics(x[:3]), FeatureStatistics(12), statistics(x[3:4]), statistics(x[4:], 5)]
    forward, backward = FeatureStatistics(12), FeatureStatistics(12)
    for part in parts:
        forward.merge(part)
    for part in reversed(parts):
        backward.merge(part)
    for merged in (forward, backward):
        assert merged.count == 500
        torch.testing.assert_close(merged.mean, x.mean(0))
        torch.testing.assert_close(merged.root.T @ merged.root, torch.cov(x.T) * 499)
        assert frechet_distance(merged, statistics(y)) == pytest.approx(by_definition(x, y), rel=1e-9)


def test_a_large_mean_costs_no_precision():
    x, y = random_features(4, 200, 200, 6)
    assert frechet_distance(statistics(x + 1e6, 4), statistics(y + 1e6, 4)) == pytest.approx(
        by_definition(x, y), rel=1e-6
    )


def test_memory_is_bounded():
    result = FeatureStatistics(8)
    for _ in range(100):
        result.add(torch.randn(5, 8))
    assert len(result.root) <= 16
    assert result.count == 500


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="two samples"):
        frechet_distance(statistics(torch.ones(1, 3)), statistics(torch.ones(4, 3)))
