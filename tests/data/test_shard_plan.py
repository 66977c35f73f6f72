"""Training on shards uses every sample once per epoch and opens shards no more often than necessary, with any settings."""

from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from smalti.data import Shards
from smalti.data.datasets import ShardTrainingDataset
from smalti.data.sampler import LaneBatchSampler, TrainingPosition, TrainingSampler
from smalti.data.shard_plan import ShardPlan
from smalti.data.shard_reading import EncodedSample
from smalti.data.sources import ReadFailure


class CountingShards(Shards):
    """Shards in memory that count how often they are opened and which samples are read."""

    def __init__(self, sizes, buffer, broken=()):
        super().__init__([f"memory:{index}" for index in range(len(sizes))], samples=sizes, buffer=buffer)
        self.broken = broken
        self.opened = Counter()
        self.read = Counter()

    def read_shard(self, index, first=0, num_shards=None):
        self.opened[index] += 1
        for number in range(first, self.sizes()[index]):
            if index in self.broken:
                break
            self.read[index, number] += 1
            yield EncodedSample(f"{index}/{number}", b"x")
        if index in self.broken or not self.sizes()[index]:
            yield ReadFailure(str(index), "damaged", num_shards or 1)


def load(shards, plan, rank, workers, epoch=0, first=0, stop=None):
    """Return the names of the samples of each batch, loaded by separate datasets in the way of a DataLoader's workers."""
    sampler = TrainingSampler(
        plan.samples, shuffle=False, rank=rank, world_size=plan.world_size, seed=0, batch_size=plan.batch_size
    )
    sampler.position = TrainingPosition(epoch, first)
    batches = LaneBatchSampler(sampler, plan.batch_size, lambda epoch: plan.plan_rank(epoch, rank).batch_lanes, workers)
    assert len(batches) == plan.batches
    datasets = [ShardTrainingDataset(shards, lambda item: item, 0, plan) for _ in range(max(1, workers))]
    loaded = []
    for task, keys in enumerate(batches):
        if keys:
            loaded.append([datasets[task % len(datasets)].select(key, 0).name for key in keys])
        if stop is not None and len(loaded) == stop:
            break
    return loaded


SETTINGS = {
    "sizes": st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(sum),
    "world_size": st.integers(1, 4),
    "workers": st.integers(0, 5),
    "lanes": st.integers(1, 6),
    "batch_size": st.integers(1, 5),
    "buffer": st.integers(1, 20),
    "epoch": st.integers(0, 3),
}


@settings(deadline=None, max_examples=150)
@given(**SETTINGS, repeats=st.integers(1, 3))
@example(sizes=[10] * 8, world_size=1, workers=8, lanes=4, batch_size=4, buffer=40, epoch=0, repeats=1)
@example(sizes=[10] * 8, world_size=2, workers=8, lanes=8, batch_size=5, buffer=40, epoch=1, repeats=1)
def test_every_sample_is_read_once_per_epoch(sizes, world_size, workers, lanes, batch_size, buffer, epoch, repeats):
    samples = repeats * sum(sizes)
    plan = ShardPlan(sizes, samples=samples, batch_size=batch_size, lanes=lanes, world_size=world_size, seed=1)
    if not plan.batches:
        return
    shards = CountingShards(sizes, buffer)
    batches = [batch for rank in range(world_size) for batch in load(shards, plan, rank, workers, epoch)]
    counts = Counter(name for batch in batches for name in batch)
    assert all(len(batch) == batch_size for batch in batches)
    # Each sample once per repetition, but for those that do not fill a batch on every process.
    assert max(counts.values()) <= repeats
    left_out = samples - sum(counts.values())
    assert left_out == samples - plan.batches * batch_size * world_size < world_size * batch_size + world_size
    # A shard is opened once per pass, and once more for each boundary between lanes. To find damage at the end of a shard,
    # one sample more is requested, but there is none.
    assert sum(shards.opened.values()) <= repeats * len(sizes) + world_size * lanes - 1
    assert sum(shards.read.values()) == sum(counts.values())


def test_equal_shards_are_opened_once():
    for workers in (0, 2, 8):
        for world_size, lanes in ((1, 4), (1, 8), (2, 4), (4, 2)):
            plan = ShardPlan([12] * 8, samples=96, batch_size=4, lanes=lanes, world_size=world_size, seed=0)
            shards = CountingShards([12] * 8, buffer=20)
            for rank in range(world_size):
                load(shards, plan, rank, workers)
            assert set(shards.opened.values()) == {1}
            assert len(shards.read) == 96


@settings(deadline=None, max_examples=80)
@given(**SETTINGS, first=st.integers(0, 60), other_workers=st.integers(0, 5))
def test_a_run_resumes_at_the_shard_and_sample(
    sizes, world_size, workers, lanes, batch_size, buffer, epoch, first, other_workers
):
    plan = ShardPlan(sizes, samples=sum(sizes), batch_size=batch_size, lanes=lanes, world_size=world_size, seed=1)
    if not plan.batches:
        return
    first %= plan.batches
    for rank in range(world_size):
        complete = load(CountingShards(sizes, buffer), plan, rank, workers, epoch)
        shards = CountingShards(sizes, buffer)
        assert load(shards, plan, rank, other_workers, epoch, first) == complete[first:]
        assert max(shards.read.values()) == 1
        block = max(1, buffer // lanes)
        remaining = (plan.batches - first) * batch_size
        assert sum(shards.read.values()) <= remaining + lanes * (block - 1)


def test_samples_per_epoch_may_differ_from_those_of_the_shards():
    """Consecutive epochs go through all shards before they use one again."""
    plan = ShardPlan([6] * 5, samples=10, batch_size=2, lanes=2, world_size=1, seed=3)
    names = [
        name for epoch in range(3) for batch in load(CountingShards([6] * 5, 4), plan, 0, 2, epoch) for name in batch
    ]
    assert len(set(names)) == len(names) == 30


def test_samples_left_out_and_samples_that_share_a_block_change_with_the_epoch():
    plan = ShardPlan([23], samples=23, batch_size=5, lanes=1, world_size=1, seed=0)
    used = [
        {name for batch in load(CountingShards([23], 10), plan, 0, 0, epoch) for name in batch} for epoch in range(8)
    ]
    assert {len(names) for names in used} == {20}
    assert set.union(*used) == {f"0/{index}" for index in range(23)}
    first = {tuple(sorted(load(CountingShards([23], 10), plan, 0, 0, epoch)[0])) for epoch in range(8)}
    assert len(first) == 8


def test_samples_of_a_damaged_shard_are_replaced_and_it_is_opened_once_and_reported():
    sizes = [0, 8, 8, 8]
    plan = ShardPlan(sizes, samples=24, batch_size=4, lanes=1, world_size=1, seed=0)
    shards = CountingShards(sizes, buffer=6, broken=(2,))
    dataset = ShardTrainingDataset(shards, lambda item: item, 0, plan)
    sampler = TrainingSampler(24, shuffle=False, rank=0, world_size=1, seed=0, batch_size=4)
    names = [dataset.select(key, 0).name for key in sampler]
    counts = Counter(names)
    assert all(counts[f"{shard}/{index}"] >= 1 for shard in (1, 3) for index in range(8))
    assert not any(name.startswith("2/") for name in names)
    (reader,) = dataset._readers.values()
    assert {failure.name for failure in reader.take_failures()} == {"0", "2"}
    assert shards.opened[2] <= 2  # its own place, and as a source of replacements
    everything_broken = ShardTrainingDataset(CountingShards([4, 4], 4, broken=(0, 1)), lambda item: item, 0, plan)
    everything_broken.plan = ShardPlan([4, 4], samples=8, batch_size=4, lanes=1, world_size=1, seed=0)
    key = next(iter(sampler))
    assert everything_broken[key].pixels is None
