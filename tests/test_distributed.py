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
from smalti.errors import SmaltiError, UnreadableError


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
    raise UnreadableError("a.tar", "it is not a tar file")


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_computes_a_value_for_all_ranks_and_its_error_is_raised_on_all(rank, monkeypatch):
    """Simulates each of two processes. The object that rank 0 broadcasts is what the other process receives."""
    from_rank_0 = []

    def broadcast(objects, src, group):
        objects[:] = from_rank_0 if rank else objects

    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "_object_group", lambda: None)
    monkeypatch.setattr(distributed.distributed, "gather_object", lambda *arguments, **options: None)
    monkeypatch.setattr(distributed.distributed, "broadcast_object_list", broadcast)
    from_rank_0 = ["value", None]
    assert compute_on_rank_0(lambda: "value" if rank == 0 else pytest.fail("only rank 0 computes")) == "value"
    from_rank_0 = [None, (True, "a.tar is damaged")]
    with pytest.raises(SmaltiError, match=r"a\.tar"):
        compute_on_rank_0(fail)
