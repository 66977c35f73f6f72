"""Packing of bits into ids."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.tokenizers.bottlenecks.sign_quantizer import pack_bits, unpack_bits


@given(bits=st.integers(1, 63), data=st.data())
def test_packing_inverts_unpacking(bits, data):
    numbers = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=8))
    ids = torch.tensor(numbers)

    unpacked = unpack_bits(ids, bits)

    assert unpacked.shape == (len(numbers), bits)
    assert pack_bits(unpacked).tolist() == numbers


def test_the_first_bit_is_the_lowest():
    assert pack_bits(torch.tensor([[True, False, False], [False, True, True]])).tolist() == [1, 6]
