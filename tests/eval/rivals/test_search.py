"""Finding the quality of a codec for a number of bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.eval.rivals.base import find_quality


@given(st.lists(st.integers(1, 400), min_size=1, max_size=101), st.integers(1, 40_000), st.data())
def test_the_highest_quality_within_the_budget_is_found(increments, budget, data):
    sizes = [sum(increments[: quality + 1]) for quality in range(len(increments))]
    known = {q: sizes[q] for q in data.draw(st.sets(st.integers(0, len(sizes) - 1)))}
    expected = max((quality for quality, size in enumerate(sizes) if size <= budget), default=None)
    assert find_quality(sizes.__getitem__, budget, len(sizes) - 1, known) == expected


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=101), st.integers(1, 9000))
def test_sizes_that_are_not_monotone_never_exceed_the_budget(sizes, budget):
    quality = find_quality(sizes.__getitem__, budget, len(sizes) - 1)
    assert quality is None if sizes[0] > budget else sizes[quality] <= budget


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
def test_few_sizes_are_measured(tolerance):
    measured = []

    def measure(quality):
        measured.append(quality)
        return 300 * 1.06**quality

    quality = find_quality(measure, 2048, 100, tolerance=tolerance)
    assert 2048 * (1 - max(tolerance, 0.06)) < measure(quality) <= 2048
    assert len(measured) <= 8
