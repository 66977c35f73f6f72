"""The order of training samples: a function of seed and epoch, distributed evenly over processes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.data.sampler import TrainingPosition, TrainingSampler
from smalti.seeds import derive_seed


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 6), st.integers(0, 9), st.integers(0, 3))
def test_processes_share_an_epoch_evenly_and_without_overlap(samples, world_size, seed, epoch):
    indices = []
    for rank in range(world_size):
        sampler = TrainingSampler(samples, shuffle=True, rank=rank, world_size=world_size, seed=seed, batch_size=1)
        sampler.position = TrainingPosition(epoch)
        keys = list(sampler)
        assert len(keys) == len(sampler) == samples // world_size
        assert {key.epoch for key in keys} <= {epoch}
        indices += [key.sample_index for key in keys]
        sampler.position = TrainingPosition(epoch, batches=3)
        assert list(sampler) == keys[3:]
    assert len(set(indices)) == len(indices)
    assert set(indices) <= set(range(samples))


def test_orders_differ_by_seed_and_epoch_and_so_do_the_samples_left_out():
    orders, left_out = set(), set()
    for seed in range(3):
        for epoch in range(3):
            sampler = TrainingSampler(11, shuffle=True, rank=0, world_size=1, seed=seed, batch_size=1)
            sampler.position = TrainingPosition(epoch)
            order = tuple(key.sample_index for key in sampler)
            orders.add(order)
            left_out.add(order[-1])
    assert len(orders) == 9
    assert len(left_out) > 3


def test_derived_seeds_are_distinct_and_never_change():
    assert len({derive_seed(a, b, c) for a in range(9) for b in range(9) for c in range(9)}) == 729
    assert derive_seed(0, 1, 2) == 4450782424123420391  # resumed runs depend on this value
