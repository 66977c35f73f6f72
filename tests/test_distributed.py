"""Collective operations."""

import pytest
import torch

from smalti import distributed
from smalti.distributed import (
    broadcast_from_rank_0,
    compute_on_rank_0,
    gather,
    is_distributed,
    mean_over_ranks,
    rank,
    start_sum_over_ranks,
    world_size,
)


def test_a_single_process_gets_its_own_values():
    value = torch.ones(3)
    assert not is_distributed()
    assert world_size() == 1
    assert gather("value") == ["value"]
    assert rank() == 0
    assert broadcast_from_rank_0(value) is value
    assert start_sum_over_ranks(value) is None
    assert mean_over_ranks(value)[0] is value


def fail():
    raise OSError("disk")


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_computes_a_value_for_all_ranks_and_its_error_is_raised_on_all(rank, monkeypatch):
    """Simulates each of two processes."""
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(distributed.distributed, "get_rank", lambda: rank)
    from_rank_0 = ("value", None)
    monkeypatch.setattr(distributed, "gather", lambda value: [value if rank == 0 else from_rank_0, value])
    assert compute_on_rank_0(lambda: "value" if rank == 0 else fail()) == "value"
    from_rank_0 = (None, OSError("disk"))
    with pytest.raises(OSError, match="disk"):
        compute_on_rank_0(fail)
