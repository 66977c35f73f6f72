"""VQToken: k-means equals a loop, stops sample by sample, and the elbow is read at the right place."""

import pytest
import torch
import torch.nn.functional as F

from smalti.errors import SmaltiError
from smalti.reducers import VQToken, elbow, kmeans
from smalti.reducers.kmeans import initial_centroids


def loop(unit, centroids, iterations):
    for _ in range(iterations):
        labels = torch.tensor([int((F.normalize(centroids, dim=-1) @ u).argmax()) for u in unit])
        new = torch.stack(
            [unit[labels == k].mean(0) if (labels == k).any() else centroids[k] for k in range(len(centroids))]
        )
        change, centroids = (new - centroids).norm(), new
        if change < 1e-4:
            break
    return labels, centroids


def test_kmeans_equals_a_loop_over_samples():
    unit = F.normalize(torch.randn(4, 50, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    start = initial_centroids(unit, 5)
    found = kmeans(unit, start, 40)
    for sample in range(4):
        labels, centroids = loop(unit[sample], start[sample], 40)
        assert torch.equal(found.labels[sample], labels)
        torch.testing.assert_close(found.centroids[sample], centroids)


def test_first_centroids_are_different_tokens():
    unit = F.normalize(torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    start = initial_centroids(unit, 20)
    assert all(len(sample.unique(dim=0)) == 20 for sample in start)
    assert not torch.equal(start, initial_centroids(unit, 20, seed=1))


def test_the_elbow():
    curve = torch.tensor([[100.0, 90, 80, 40, 35, 31, 30]])
    assert elbow(curve, first=12).tolist() == [15]  # the kink is at the fourth value: K = 15
    assert elbow(curve, first=12, upstream=True).tolist() == [12]
    with pytest.raises(SmaltiError, match="at least 3"):
        elbow(curve[:, :2])


def test_adaptive_finds_the_number_of_clusters():
    generator = torch.Generator().manual_seed(0)
    centers = F.normalize(torch.randn(20, 32, generator=generator), dim=-1)
    tokens = centers.repeat_interleave(8, 0) + 0.02 * torch.randn(160, 32, generator=generator)
    reduced = VQToken(None, max_iterations=10).reduce(tokens[None] * 5, (10, 16))
    assert abs(int(reduced.lengths) - 20) <= 2
    torch.testing.assert_close(reduced.tokens.norm(dim=-1).max(), torch.tensor(1.0), atol=0.05, rtol=0)


def test_magnitude_is_kept_on_request():
    tokens = torch.randn(1, 36, 8) * 7
    kept = VQToken(36, keep_magnitude=True)
    torch.testing.assert_close(kept.expand(kept.reduce(tokens, (6, 6)), (6, 6)), tokens)
