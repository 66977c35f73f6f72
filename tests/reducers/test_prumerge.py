"""PruMerge: a loop over centers gives the same tokens; the errors of the published code are gone."""

import pytest
import torch
import torch.nn.functional as F

from smalti.errors import SmaltiError
from smalti.reducers import PruMerge


def merge_one(x, keys, a, centers, neighbors):
    """Merge one sample center by center."""
    out = []
    for i in centers:
        cosine = F.cosine_similarity(keys, keys[i][None])
        cosine[i] = -2
        nearest = cosine.argsort(descending=True)[:neighbors]
        out.append(x[i] + (a[nearest, None] * x[nearest]).sum(0))
    rest = [j for j in range(len(x)) if j not in centers]
    return torch.stack([*out, (a[rest, None] * x[rest]).sum(0)])


def make(batch=2, total=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, keys = (torch.randn(batch, total, 8, generator=generator) for _ in range(2))
    return x, keys, torch.rand(batch, total, generator=generator) ** 6


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("ratio", [0.125, None])
def test_a_loop_over_centers_gives_the_same_tokens(ratio, plus):
    x, keys, a = make()
    reduced = PruMerge(ratio, plus, neighbors=5).reduce(x, (8, 8), saliency=a, keys=keys)
    for sample in range(2):
        centers = reduced.indices[sample][reduced.indices[sample] >= 0].tolist()
        expected = merge_one(x[sample], keys[sample], a[sample], centers, 5)
        torch.testing.assert_close(reduced.tokens[sample, : len(expected)], expected)
        assert int(reduced.lengths[sample]) == len(expected)
        count = 8 if ratio else int(a[sample].gt(outlier_bound(a[sample])).sum())
        assert centers[:count] == a[sample].argsort(descending=True)[:count].tolist()
        assert centers[count:] == sorted(centers[count:])
        assert bool(centers[count:]) == plus


def outlier_bound(a):
    first, third = torch.quantile(a, torch.tensor([0.25, 0.75]))
    return third + 1.5 * (third - first)


def test_strided_centers_reach_the_last_token_and_are_unique():
    x, keys, a = make(total=1024)
    reduced = PruMerge(0.125, plus=True).reduce(x, (32, 32), saliency=a, keys=keys)
    for row in reduced.indices:
        centers = row[row >= 0].tolist()
        assert len(centers) == len(set(centers))
        assert set(range(4, 1024, 8)) <= set(centers)


def test_a_sample_without_outliers_keeps_its_best_token():
    x, keys, _ = make()
    flat = torch.linspace(1, 1.1, 64).expand(2, -1)
    assert PruMerge().reduce(x, (8, 8), saliency=flat, keys=keys).lengths.tolist() == [2, 2]


def test_few_tokens_are_enough():
    x, keys, a = make(total=4)
    assert PruMerge(0.5).reduce(x, (2, 2), saliency=a, keys=keys).lengths.tolist() == [3, 3]
    with pytest.raises(SmaltiError, match="needs more than 32 tokens"):
        PruMerge(0.5, upstream=True).reduce(x, (2, 2), saliency=a, keys=keys)


def test_a_fraction_does_not_lose_a_token_to_rounding():
    x, keys, a = make(total=100)
    assert int(100 * 0.29) == 28
    assert PruMerge(0.29).reduce(x, (10, 10), saliency=a, keys=keys).lengths.tolist() == [30, 30]


def test_tokens_go_to_the_center_that_is_most_similar_among_those_that_absorbed_them():
    x, keys, a = make()
    reduced = PruMerge(0.125, neighbors=6).reduce(x, (8, 8), saliency=a, keys=keys)
    unit = F.normalize(keys, dim=-1)
    for sample in range(2):
        centers = reduced.indices[sample, :-1]
        cosine = unit[sample, centers] @ unit[sample].T
        for token in set(range(64)) - set(centers.tolist()):
            others = [cosine[i].clone() for i in range(len(centers))]
            for i, c in enumerate(centers):
                others[i][c] = -2
            holders = [i for i in range(len(centers)) if token in others[i].topk(6).indices]
            best = max(holders, key=lambda i: float(cosine[i, token])) if holders else len(centers)
            assert int(reduced.assignment[sample, token]) == best


def test_spreading_back_divides_by_the_weights():
    x, keys, a = make()
    constant = torch.full_like(x, 3.0)
    reducer = PruMerge(0.25)
    spread = reducer.expand(reducer.reduce(constant, (8, 8), saliency=a, keys=keys), (8, 8))
    torch.testing.assert_close(spread, constant)
