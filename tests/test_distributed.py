"""Collective operations return their input in a single process."""

import torch

from smalti.distributed import (
    broadcast_from_rank_0,
    gather,
    is_distributed,
    max_over_ranks,
    mean_over_ranks,
    world_size,
)


def test_a_single_process_gets_its_own_values():
    value = torch.ones(3)
    assert not is_distributed()
    assert world_size() == 1
    assert gather("value") == ["value"]
    for operation in (max_over_ranks, broadcast_from_rank_0):
        assert operation(value) is value
    assert mean_over_ranks(value)[0] is value
