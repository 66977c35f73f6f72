"""Ids and latents are stored exactly, in the smallest safe type."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.export.id_types import smallest_id_type
from smalti.tokenization.storage import (
    latents_from_numpy,
    latents_to_numpy,
    pack_samples,
    unpack_sample,
)


@settings(max_examples=50, deadline=None)
@given(bits=st.integers(1, 62), count=st.integers(1, 40), seed=st.integers(0, 99))
def test_packed_ids_return_and_take_their_bits(bits, count, seed):
    ids = np.random.default_rng(seed).integers(0, 2**bits, (2, count, 3), dtype=np.int64)
    packed = pack_samples(ids, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (2, -(-count * 3 * bits // 8))
    for sample, expected in zip(packed, ids, strict=True):
        assert (unpack_sample(sample, bits, (count, 3)).numpy() == expected).all()
    with pytest.raises(SmaltiError, match="bytes"):
        unpack_sample(packed[0], bits, (count + 8, 3))


@pytest.mark.parametrize(
    ("values", "name"),
    [(1, "uint8"), (256, "uint8"), (257, "uint16"), (2**16, "uint16"), (2**16 + 1, "uint32"), (2**32, "uint32"),
     (2**32 + 1, "int64"), (2**63, "int64")],
)  # fmt: skip
def test_the_type_holds_the_largest_id_and_the_next_smaller_type_does_not(values, name):
    assert smallest_id_type(values) == name
    assert np.iinfo(name).max >= values - 1


def test_more_than_63_bits_are_refused():
    with pytest.raises(SmaltiError, match="more than 2\\^63"):
        smallest_id_type(2**63 + 1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_latents_keep_their_bits(dtype):
    latents = torch.randn(5, 4).to(getattr(torch, dtype))
    stored = latents_to_numpy(latents)
    assert stored.itemsize == latents.element_size()
    assert torch.equal(latents_from_numpy(stored, dtype), latents)
