"""Finite scalar quantization: ids map one to one to codewords, results equal vector-quantize-pytorch, large codebooks."""

import math

import pytest
import torch
import vector_quantize_pytorch as library
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks import FSQ


def bound_parameters(levels):
    """Return the half width and the offset of the tanh bound of the paper."""
    level = torch.tensor(levels)
    return (level - 1) * (1 + 1e-3) / 2, 0.5 * (level % 2 == 0)


@settings(max_examples=60, deadline=None)
@given(levels=st.lists(st.integers(2, 40), min_size=1, max_size=8), tokens=st.integers(1, 3), data=st.data())
def test_ids_and_codewords_are_one_to_one(levels, tokens, data):
    quantizer = FSQ(levels, tokens).eval()
    numbers = data.draw(st.lists(st.integers(0, math.prod(levels) - 1), min_size=tokens, max_size=tokens))
    ids = torch.tensor(numbers).view(1, 1, tokens)

    z = quantizer.lookup(ids).double()

    # Invert the bound of the paper to get the input that is bounded to exactly z.
    half, offset = bound_parameters(levels * tokens)
    h = torch.atanh((z * (torch.tensor(levels * tokens) // 2) + offset) / half) - torch.atanh(offset / half)
    assert quantizer(h).ids.flatten().tolist() == numbers
    torch.testing.assert_close(quantizer(h).z, z, rtol=1e-6, atol=0)


def without_near_ties(h, levels):
    """Return the positions of h (B, N, C) where no channel is so close to a rounding boundary that float32 decides."""
    half, offset = bound_parameters(levels)
    half, offset = half.double(), offset.double()
    bounded = torch.tanh(h.double() + torch.atanh(offset / half)) * half - offset
    return h[((bounded - bounded.floor() - 0.5).abs() > 1e-4).all(dim=-1)].unsqueeze(0)


@pytest.mark.parametrize(
    ("levels", "tokens"), [([8, 5, 5, 5], 1), ([8, 8, 8, 5, 5, 5], 2), ([3, 4, 7], 5), ([16], 1), ([4], 4)]
)
def test_values_ids_and_gradients_equal_the_library(levels, tokens):
    theirs = library.FSQ(levels, num_codebooks=tokens)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(2, 300, len(levels) * tokens, generator=generator) * 2
    h = without_near_ties(h, levels * tokens).requires_grad_()
    assert h.shape[1] > 500
    expected, indices = theirs(h)
    weights = torch.randn(expected.shape, generator=generator)
    reference = torch.autograd.grad((expected * weights).sum(), h)[0]

    code = FSQ(levels, tokens)(h)

    assert torch.equal(code.ids, indices.view(1, -1, tokens).long())
    eps = torch.finfo(torch.float32).eps
    torch.testing.assert_close(code.z, expected, rtol=4 * eps, atol=4 * eps)
    # The gradient 1 - tanh^2 cancels for large inputs, which leaves the rounding error of tanh.
    atol = 8 * eps * weights.abs().max().item()
    torch.testing.assert_close(torch.autograd.grad((code.z * weights).sum(), h)[0], reference, rtol=8 * eps, atol=atol)


@pytest.mark.parametrize("level", [2, 3, 1000, 1001, 1500, 65536])
def test_all_inputs_stay_in_the_codebook_and_reach_both_ends(level):
    quantizer = FSQ([level]).eval()
    h = torch.tensor([-1e6, 1e6, 0.0]).view(1, 3, 1)
    code = quantizer(h)
    assert code.ids.flatten().tolist()[:2] == [0, level - 1]
    assert torch.equal(quantizer.lookup(code.ids), code.z)


@pytest.mark.parametrize("levels", [[16] * 8, [8] * 20, [2] * 62], ids=["2^32", "2^60", "2^62"])
def test_a_codebook_too_large_to_enumerate(levels):
    quantizer = FSQ(levels).eval()
    code = quantizer(torch.randn(2, 500, len(levels), generator=torch.Generator().manual_seed(0)) * 3)
    assert quantizer.codebook_size == math.prod(levels)
    assert code.ids.max() > 2**31
    assert torch.equal(quantizer.lookup(code.ids), code.z)
    last = torch.full((1, 1, 1), quantizer.codebook_size - 1)
    assert torch.equal(quantizer(quantizer.lookup(last) * 50).ids, last)


@pytest.mark.parametrize(
    ("levels", "tokens", "message"),
    [([2] * 63, 1, "tokens_per_position"), ([], 1, "levels"), ([8, 1], 1, "levels"), ([8], 0, "at least one token")],
)
def test_bad_arguments_are_refused(levels, tokens, message):
    with pytest.raises(SmaltiError, match=message):
        FSQ(levels, tokens)
