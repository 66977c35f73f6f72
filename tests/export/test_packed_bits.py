"""Packed positions are exact for any number of bits, on disk too."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from smalti.errors import SmaltiError
from smalti.export.packed_bits import bits_per_id, pack_positions, unpack_positions
from smalti.export.token_files import TokenFile, load_tokens, save_tokens
from smalti.types import TokenGrid


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 62), tokens=st.integers(1, 33), seed=st.integers(0, 99))
def test_positions_of_any_number_of_bits_round_trip(bits, tokens, seed):
    ids = torch.randint(2**bits, (2, 3, tokens), generator=torch.Generator().manual_seed(seed))
    ids[0, 0] = 2**bits - 1
    packed = pack_positions(ids, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (2, 3, -(-bits * tokens // 8))
    assert torch.equal(unpack_positions(packed, bits, tokens), ids)


@pytest.mark.parametrize("total", [64, 128, 256])
def test_positions_of_64_128_and_256_bits_are_little_endian_integers(total):
    ids = torch.randint(2**16, (1, 5, total // 16))
    packed = pack_positions(ids, 16)
    for position, row in zip(ids[0].tolist(), packed[0].numpy(), strict=True):
        assert int.from_bytes(row.tobytes(), "little") == sum(value << (16 * k) for k, value in enumerate(position))
    assert np.array_equal(pack_positions(packed, 8).numpy(), packed.numpy())  # ids of 8 bits are their own bytes


def test_invalid_ids_and_bytes_are_refused():
    for call, message in (
        (lambda: pack_positions(torch.tensor([[[8]]]), 3), "8"),
        (lambda: pack_positions(torch.tensor([[[-1]]]), 3), "-1"),
        (lambda: pack_positions(torch.tensor([[[0]]]), 63), "62"),
        (lambda: unpack_positions(torch.zeros(1, 1, 2, dtype=torch.uint8), 3, 2), "1 bytes"),
        (lambda: unpack_positions(torch.full((1, 1, 1), 64, dtype=torch.uint8), 3, 2), "unused"),
    ):
        with pytest.raises(SmaltiError, match=message):
            call()
    assert [bits_per_id(size) for size in (2, 3, 256, 257, 2**32)] == [1, 2, 8, 9, 32]


@pytest.mark.parametrize(("codebook_size", "tokens"), [(2**18, 2), (2**8, 32), (2**32, 8), (64_000, 1), (2**62, 3)])
def test_packed_token_files_round_trip(tmp_path, codebook_size, tokens):
    ids = torch.randint(codebook_size, (1, 24, tokens))
    ids[0, 0] = codebook_size - 1
    grid = TokenGrid(ids=ids, grids=((1, 4, 6),), size=(30, 41))
    file = tmp_path / "a.safetensors"
    save_tokens(file, TokenFile(grid, "where", "f" * 64), codebook_size, pack=True)
    loaded = load_tokens(file)
    assert torch.equal(loaded.tokens.ids, ids)
    assert loaded.tokens.layout() == grid.layout()
    with safe_open(file, "pt") as opened:
        assert opened.get_tensor("packed").nbytes == 24 * -(-bits_per_id(codebook_size) * tokens // 8)


@pytest.mark.parametrize("change", [{"packed_bits": "9"}, {"packed_bits": "x"}, {"tokens_per_position": None}])
def test_damaged_packed_files_are_refused_in_one_sentence(tmp_path, change):
    from safetensors.torch import save_file

    file = tmp_path / "a.safetensors"
    grid = TokenGrid(ids=torch.zeros(1, 4, 2, dtype=torch.int64), grids=((1, 2, 2),), size=(8, 8))
    save_tokens(file, TokenFile(grid, "where", "f" * 64), 2**18, pack=True)
    with safe_open(file, "pt") as opened:
        metadata, packed = opened.metadata() | change, opened.get_tensor("packed")
    save_file({"packed": packed}, file, {key: value for key, value in metadata.items() if value is not None})
    with pytest.raises(SmaltiError, match="is damaged") as caught:
        load_tokens(file)
    assert "\n" not in str(caught.value)
