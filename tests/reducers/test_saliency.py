"""Saliency from attention, features, ids and errors."""

import math

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.reducers import saliency


def test_attention():
    attention = torch.rand(2, 3, 10, 10).softmax(-1)
    torch.testing.assert_close(saliency.class_attention(attention), attention[:, :, 0, 1:].mean(1))
    torch.testing.assert_close(saliency.class_attention(attention[:, :, 0]), attention[:, :, 0, 1:].mean(1))
    torch.testing.assert_close(saliency.mean_attention(attention).sum(1), torch.ones(2))
    q, k = torch.randn(2, 2, 10, 12)
    assert float(saliency.cls_attention(q, k).sum(1).max()) < 1
    with pytest.raises(SmaltiError, match="5 heads"):
        saliency.cls_logits(q, k, 5)


def test_contrast_finds_the_token_that_differs():
    features = torch.ones(1, 35, 4)
    features[0, 17] = 5
    contrast = saliency.feature_contrast(features, (5, 7))
    assert int(contrast.argmax()) == 17
    assert float(contrast[0, 0]) == pytest.approx(0, abs=1e-6)
    assert saliency.feature_norm(features).argmax() == 17


def test_entropy_and_surprise():
    uniform = torch.full((1, 3, 2, 8), 1 / 8)
    torch.testing.assert_close(saliency.token_entropy(uniform), torch.full((1, 3), 2 * math.log(8)))
    ids = torch.tensor([[[0, 1], [0, 1], [0, 1], [3, 1]]])
    torch.testing.assert_close(saliency.token_surprise(ids, 4), torch.tensor([[-math.log2(3 / 4)] * 3 + [2.0]]))
    with pytest.raises(SmaltiError, match=r"not in \[0, 3\)"):
        saliency.token_surprise(ids, 3)


def test_reconstruction_error_is_that_of_each_cell():
    original, reconstruction = torch.zeros(2, 1, 3, 16, 24)
    reconstruction[:, :, 8:, 16:] = 1
    error = saliency.reconstruction_error(original, reconstruction, (2, 3))
    assert error.tolist() == [[0, 0, 0, 0, 0, 1]]
