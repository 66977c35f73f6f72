import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.eval.codebook_usage import IdCounts


def counted(*blocks):
    counts = IdCounts()
    for block in blocks:
        counts.add(torch.tensor(block, dtype=torch.int64))
    return counts


def test_use_of_a_small_book():
    use = counted([[0, 0], [3, 3]], [7, 7, 7, 7]).use(16)
    assert (use.used, use.tokens, use.share, use.reachable_share) == (3, 8, 3 / 16, 3 / 8)
    assert use.perplexity == pytest.approx(math.exp(1.5 * math.log(2)))  # 2 bits / 4, 2 / 4, 1 / 2: 1.5 bits


@pytest.mark.parametrize("bits", [32, 62])
def test_a_book_that_nobody_can_enumerate(bits):
    use = counted([0, 2**bits - 1], [2**bits - 1, 5]).use(2**bits)
    assert (use.used, use.tokens) == (3, 4)
    assert use.share == 3 / 2**bits
    assert use.reachable_share == 3 / 4


def test_perplexity_reaches_from_one_to_all():
    assert counted([4] * 10).use(8).perplexity == pytest.approx(1)
    assert counted(list(range(8)) * 3).use(8).perplexity == pytest.approx(8)


@given(st.lists(st.lists(st.integers(0, 2**40), max_size=20), max_size=6), st.data())
def test_any_split_counts_the_same(blocks, data):
    flat = [i for block in blocks for i in block]
    left, right = counted(*blocks[: len(blocks) // 2]), counted(*blocks[len(blocks) // 2 :])
    left.merge(right)
    left.settle()
    ids, counts = torch.tensor(flat, dtype=torch.int64).unique(return_counts=True)
    assert torch.equal(left.ids, ids)
    assert torch.equal(left.counts, counts)


def test_many_tokens_are_settled_on_the_way():
    counts = IdCounts()
    for _ in range(5):
        counts.add(torch.arange(40_000))
    assert sum(len(block) for block in counts._pending) <= 1 << 17
    use = counts.use(2**18)
    assert (use.used, use.tokens) == (40_000, 200_000)
    assert use.perplexity == pytest.approx(40_000)


def test_nothing_counted():
    with pytest.raises(ValueError, match="No tokens"):
        IdCounts().use(4)
