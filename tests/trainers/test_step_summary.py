"""The summary of an optimizer step in one process. `test_distributed.py` tests several."""

import pytest
import torch

from smalti.errors import DivergedError
from smalti.trainers.nan_guard import check_finite
from smalti.trainers.step_summary import StepSummary


def test_metrics_are_means_over_the_micro_batches_that_computed_them():
    summary = StepSummary(["l1", "kl", "kl_continuous", "unused"])
    summary.add({"l1": torch.tensor(1.0), "kl": torch.tensor(2.0)}, 4)
    summary.add({"l1": torch.tensor(2.0, dtype=torch.float64), "kl": torch.tensor(4.0)}, 3)
    summary.add({"l1": torch.tensor(6.0)}, 1)
    summary.start([False, True])
    result = summary.finish([torch.tensor(0.5)])
    assert {name: float(mean) for name, mean in result.means.items()} == {"l1": 3.0, "kl": 3.0}
    assert (result.samples, result.flags, result.norms, result.diverged_ranks) == (8, [False, True], [0.5], [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_of_any_micro_batch_that_is_not_finite_is_found(value):
    summary = StepSummary(["l1", "mse"])
    for l1 in (1.0, value, -value):
        summary.add({"l1": torch.tensor(l1), "mse": torch.tensor(1.0)}, 1)
    summary.start([])
    assert summary.finish().diverged_ranks == [0]
    with pytest.raises(DivergedError, match=r"Step 7: NaN or infinite: l1, on the batch a, b\."):
        check_finite(summary.means(), 7, ["a", "b"], [0])


def test_the_error_names_the_other_process():
    check_finite({"l1": torch.tensor(1.0)}, 7, ["a"])
    with pytest.raises(DivergedError, match=r"another process \(rank 3\)"):
        check_finite({"l1": torch.tensor(1.0)}, 7, ["a"], [3])
