"""Finite scalar quantization: one-to-one, equal to vector-quantize-pytorch, and large books."""

import math

import pytest
import torch
import vector_quantize_pytorch as library
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks import FSQ


@settings(max_examples=60, deadline=None)
@given(levels=st.lists(st.integers(2, 40), min_size=1, max_size=8), tokens=st.integers(1, 3), data=st.data())
def test_ids_and_codes_are_one_to_one(levels, tokens, data):
    quantizer = FSQ(levels, tokens).eval()
    numbers = data.draw(st.lists(st.integers(0, math.prod(levels) - 1), min_size=tokens, max_size=tokens))
    ids = torch.tensor(numbers).view(1, 1, tokens)

    z = quantizer.lookup(ids).double()

    # The input that is bounded to exactly z, found by inverting the bound of the paper.
    level = torch.tensor(levels * tokens)
    half, offset = (level - 1) * (1 + 1e-3) / 2, 0.5 * (level % 2 == 0)
    h = torch.atanh((z * (level // 2) + offset) / half) - torch.atanh(offset / half)
    assert quantizer(h).ids.flatten().tolist() == numbers
    torch.testing.assert_close(quantizer(h).z, z, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("levels", "tokens"), [([8, 5, 5, 5], 1), ([8, 8, 8, 5, 5, 5], 2), ([3, 4, 7], 5), ([16], 1), ([4], 4)]
)
def test_values_ids_and_gradients_are_the_librarys(levels, tokens):
    theirs = library.FSQ(levels, num_codebooks=tokens)
    h = (torch.randn(2, 300, len(levels) * tokens) * 2).requires_grad_()
    expected, indices = theirs(h)
    weights = torch.randn_like(expected)
    reference = torch.autograd.grad((expected * weights).sum(), h)[0]

    code = FSQ(levels, tokens)(h)

    assert torch.equal(code.ids, indices.view(2, 300, tokens).long())
    torch.testing.assert_close(code.z, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad((code.z * weights).sum(), h)[0], reference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("level", [2, 3, 1000, 1001, 1500, 65536])
def test_no_input_leaves_the_book_and_every_end_is_reached(level):
    quantizer = FSQ([level]).eval()
    h = torch.tensor([-1e6, 1e6, 0.0]).view(1, 3, 1)
    code = quantizer(h)
    assert code.ids.flatten().tolist()[:2] == [0, level - 1]
    assert torch.equal(quantizer.lookup(code.ids), code.z)


@pytest.mark.parametrize("levels", [[16] * 8, [8] * 20, [2] * 62], ids=["2^32", "2^60", "2^62"])
def test_a_book_too_large_to_enumerate_is_no_problem(levels):
    quantizer = FSQ(levels).eval()
    code = quantizer(torch.randn(2, 500, len(levels)) * 3)
    assert quantizer.codebook_size == math.prod(levels)
    assert code.ids.max() > 2**31
    assert torch.equal(quantizer.lookup(code.ids), code.z)
    last = torch.full((1, 1, 1), quantizer.codebook_size - 1)
    assert torch.equal(quantizer(quantizer.lookup(last) * 50).ids, last)


@pytest.mark.parametrize(
    ("levels", "tokens", "words"),
    [([2] * 63, 1, "tokens_per_position"), ([], 1, "levels"), ([8, 1], 1, "levels"), ([8], 0, "at least one token")],
)
def test_bad_arguments_are_refused_in_words(levels, tokens, words):
    with pytest.raises(SmaltiError, match=words):
        FSQ(levels, tokens)
