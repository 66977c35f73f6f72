"""Bootstrap intervals: reproducible, paired, and equal to normal theory for many samples."""

import pytest
import torch

from smalti.eval.paired_differences import Difference, bootstrap_intervals, paired_differences


def normal(count, columns=1):
    return torch.randn(count, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_many_samples_have_the_interval_of_normal_theory():
    values = normal(400)
    (interval,) = bootstrap_intervals(values).tolist()
    half = 1.96 * values.std().item() / 20
    assert interval == pytest.approx([values.mean().item() - half, values.mean().item() + half], abs=0.1 * half)


def test_intervals_are_reproducible_and_columns_share_their_draws():
    values = normal(30, 2)
    values[:, 1] = 5 - 2 * values[:, 0]
    intervals = bootstrap_intervals(values)
    assert torch.equal(intervals, bootstrap_intervals(values))
    low, high = intervals[0]
    torch.testing.assert_close(intervals[1], torch.stack([5 - 2 * high, 5 - 2 * low]))
    torch.testing.assert_close(
        bootstrap_intervals(torch.full((3, 1), 7.0, dtype=torch.float64)), torch.full((1, 2), 7.0).double()
    )


def test_differences_are_paired_by_name():
    values, others = {"a": 3.0, "b": 5.0, "c": 100.0}, {"b": 4.0, "a": 1.0, "d": 7.0}
    difference, none, reverse = paired_differences([(values, others), (values, {"a": 1.0}), (others, values)])
    assert (difference.mean, difference.samples) == (1.5, 2)
    assert (difference.low, difference.high) == (1.0, 2.0)
    assert none is None
    assert (reverse.mean, reverse.low, reverse.high) == (-1.5, -2.0, -1.0)
    assert paired_differences([]) == []


def test_a_difference_is_clear_if_its_interval_is_on_one_side_of_zero():
    assert Difference(1, 0.5, 2, 3).excludes_zero
    assert Difference(-1, -2, -0.5, 3).excludes_zero
    assert not Difference(1, -0.5, 2, 3).excludes_zero
