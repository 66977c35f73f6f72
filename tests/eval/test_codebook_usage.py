"""Codebook usage by sparse counts: small and huge codebooks, merging, and bounded memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.eval.codebook_usage import IdCounts


def count(*blocks):
    counts = IdCounts()
    for block in blocks:
        counts.add(torch.tensor(block, dtype=torch.int64))
    return counts


def test_usage_of_a_small_codebook():
    usage = count([[0, 0], [3, 3]], [7, 7, 7, 7]).summarize(16)
    assert (usage.used, usage.tokens, usage.share, usage.reachable_share) == (3, 8, 3 / 16, 3 / 8)
    assert usage.perplexity == pytest.approx(math.exp(1.5 * math.log(2)))  # probabilities 1/4, 1/4, 1/2: 1.5 bits


@pytest.mark.parametrize("bits", [32, 62])
def test_usage_of_a_codebook_too_large_to_enumerate(bits):
    usage = count([0, 2**bits - 1], [2**bits - 1, 5]).summarize(2**bits)
    assert (usage.used, usage.tokens) == (3, 4)
    assert usage.share == 3 / 2**bits
    assert usage.reachable_share == 3 / 4


def test_perplexity_ranges_from_one_to_the_number_of_ids():
    assert count([4] * 10).summarize(8).perplexity == pytest.approx(1)
    assert count(list(range(8)) * 3).summarize(8).perplexity == pytest.approx(8)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**40), max_size=20), max_size=6))
def test_merged_counts_equal_counts_of_everything(blocks):
    left, right = count(*blocks[: len(blocks) // 2]), count(*blocks[len(blocks) // 2 :])
    left.merge(right)
    left.consolidate()
    everything = torch.tensor([i for block in blocks for i in block], dtype=torch.int64)
    ids, counts = everything.unique(return_counts=True)
    assert torch.equal(left.ids, ids)
    assert torch.equal(left.counts, counts)


def test_memory_of_pending_ids_is_bounded():
    counts = IdCounts()
    for _ in range(5):
        counts.add(torch.arange(40_000))
    assert sum(len(block) for block in counts._pending) <= 1 << 17
    usage = counts.summarize(2**18)
    assert (usage.used, usage.tokens) == (40_000, 200_000)
    assert usage.perplexity == pytest.approx(40_000)


def test_usage_without_tokens_raises_an_error():
    with pytest.raises(ValueError, match="No tokens"):
        IdCounts().summarize(4)
