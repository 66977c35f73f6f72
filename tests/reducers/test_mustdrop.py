"""MustDrop's encode stage: windows merge sample by sample."""

import torch
import torch.nn.functional as F

from smalti.reducers import LocalMerge, select_key_tokens


def test_each_sample_merges_its_own_windows():
    torch.manual_seed(0)
    uniform = torch.randn(1, 1, 8).expand(1, 36, 8) + 0.01 * torch.randn(1, 36, 8)
    tokens = torch.cat((uniform, torch.randn(1, 36, 8)))
    ours = LocalMerge(3, 0.8).reduce(tokens, (6, 6))
    assert ours.lengths.tolist() == [4, 36]
    assert ours.sizes.sum(1).tolist() == [36, 36]
    published = LocalMerge(3, 0.8, upstream=True).reduce(tokens, (6, 6))
    assert published.lengths.tolist() == [36, 36]


def test_order_and_means():
    torch.manual_seed(1)
    tokens = torch.randn(1, 24, 8) + torch.randn(1, 1, 8)
    merge = LocalMerge(2, 0.5)
    windows = tokens.reshape(2, 2, 3, 2, 8).transpose(1, 2).reshape(6, 4, 8)
    similarity = []
    for window in windows:
        cosine = F.cosine_similarity(window[:, None], window[None], dim=-1)
        similarity.append((cosine.sum() - 4) / 12)
    similarity = torch.stack(similarity)
    torch.testing.assert_close(merge.similarity(tokens, (4, 6))[0], similarity)
    order = [i for i in similarity.argsort(descending=True).tolist() if similarity[i] >= 0.5]
    assert 0 < len(order) < 6
    reduced = merge.reduce(tokens, (4, 6))
    torch.testing.assert_close(reduced.tokens[0, : len(order)], windows[order].mean(1))
    rest = reduced.indices[0, len(order) :]
    assert torch.equal(rest, rest.sort().values)
    assert torch.equal(reduced.tokens[0, len(order) :], tokens[0, rest])
    for position, place in enumerate(reduced.assignment[0].tolist()):
        window = position // 12 * 3 + position % 6 // 2
        assert place == (order.index(window) if window in order else len(order) + rest.tolist().index(position))


def test_key_tokens_ignore_padding():
    attention = torch.rand(2, 3, 101)
    keys = select_key_tokens(attention, 0.08, lengths=torch.tensor([100, 30]))
    assert keys.shape == (2, 8)
    assert torch.equal(keys[:1], select_key_tokens(attention[:1], 0.08))
    assert torch.equal(keys[1:, :3], select_key_tokens(attention[1:, :, :31], 0.08))
    assert keys[1, 3:].tolist() == [-1] * 5
