"""The watch over ranks that die or fail without the others. tests/commands/test_faults.py kills real processes."""

import json
import subprocess
import sys

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.trainers import RankWatch


@pytest.fixture
def watches():
    """Return the watches of three ranks, without threads, on one store."""
    store = torch.distributed.HashStore()
    watches = [RankWatch(timeout=10) for _ in range(3)]
    for rank, watch in enumerate(watches):
        watch._store, watch._rank, watch._world_size, watch._beats = store, rank, 3, {}
    return watches


def poll(watches, times):
    return [[watch._poll() for watch in watches] for _ in range(times)][-1]


def test_a_rank_without_signs_of_life_is_named(watches):
    assert poll(watches, 30) == [None] * 3
    assert poll(watches[:2], 10) == [None] * 2
    verdict, same = poll(watches[:2], 2)
    assert verdict.message.startswith("Rank 2 has given no sign of life for 10 seconds")
    assert same == verdict
    assert verdict.code == 1


def test_rank_0_is_watched_by_the_others_and_sooner_after_a_lost_connection(watches):
    poll(watches, 2)
    watches[0]._store.set("lost", "1")
    assert poll(watches[1:], 7)[0].message.startswith("Rank 0 has given no sign of life for 5 seconds")


def test_a_rank_that_ends_as_planned_is_not_missed(watches):
    poll(watches, 2)
    watches[2]._stop()
    assert poll(watches[:2], 30) == [None] * 2


def test_the_first_message_holds_and_a_child_that_ends_is_named(watches):
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    child.wait()
    watches[0].children = [child]
    assert poll(watches, 1)[2].message == "Rank 1 has ended with exit code 3: see its messages."
    assert json.loads(watches[0]._store.get("verdict"))[1] == 1
    watches[0].end_children(0)


def test_a_short_timeout_is_refused():
    with pytest.raises(SmaltiError, match="at least 5"):
        RankWatch(timeout=1)
