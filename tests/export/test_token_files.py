"""Token files keep everything that detokenizing needs."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from smalti.errors import SmaltiError
from smalti.export.token_files import TokenFile, is_clip, load_tokens, save_tokens
from smalti.types import TokenGrid


def content(frames=None, rate=None, ids=None, grids=((1, 4, 4), (2, 2, 2))):
    ids = torch.arange(48).reshape(1, 24, 2) if ids is None else ids
    return TokenFile(TokenGrid(ids=ids, grids=grids, size=(30, 31), frames=frames), "where", "f" * 64, rate)


@settings(max_examples=30, deadline=None)
@given(
    codebook_size=st.sampled_from([2, 256, 257, 2**16, 2**16 + 1, 2**32, 2**32 + 1]),
    rate=st.one_of(st.none(), st.fractions(min_value=Fraction(1, 10), max_value=1000, max_denominator=1001)),
    seed=st.integers(0, 99),
)
def test_round_trip(tmp_path_factory, codebook_size, rate, seed):
    file = tmp_path_factory.mktemp("tokens") / "a.safetensors"
    ids = torch.randint(codebook_size, (1, 24, 2), generator=torch.Generator().manual_seed(seed))
    ids[0, 0, 0] = codebook_size - 1
    saved = content(None if rate is None else 5, rate, ids)
    save_tokens(file, saved, codebook_size)
    loaded = load_tokens(file)
    assert torch.equal(loaded.tokens.ids, ids)
    assert loaded.tokens.ids.dtype == torch.int64
    assert (loaded.tokens.grids, loaded.tokens.size) == (saved.tokens.grids, saved.tokens.size)
    assert (loaded.tokens.frames, loaded.rate) == (saved.tokens.frames, rate)
    assert (loaded.tokenizer, loaded.fingerprint) == (saved.tokenizer, saved.fingerprint)
    assert is_clip(file) == (rate is not None)
    with safe_open(file, "pt") as opened:
        assert opened.get_tensor("ids").element_size() == next(n for n in (1, 2, 4, 8) if codebook_size <= 256**n)


def test_a_clip_needs_a_frame_rate_and_an_image_must_not_have_one():
    with pytest.raises(ValueError, match="frame rate"):
        content(frames=5)
    with pytest.raises(ValueError, match="frame rate"):
        content(rate=Fraction(25))


@pytest.mark.parametrize(
    "change",
    [
        {"rate": "25/0"},
        {"rate": "fast"},
        {"frames": "null"},
        {"grids": "[[1, 4, 4]]"},
        {"size": "[30]"},
        {"fingerprint": None},
        {"rate": None},
    ],
)
def test_damaged_metadata_are_refused_in_one_sentence(tmp_path, change):
    file = tmp_path / "a.safetensors"
    save_tokens(file, content(5, Fraction(25)), 48)
    with safe_open(file, "pt") as opened:
        metadata, ids = opened.metadata() | change, opened.get_tensor("ids")
    save_file({"ids": ids}, file, {key: value for key, value in metadata.items() if value is not None})
    with pytest.raises(SmaltiError, match="is damaged") as caught:
        load_tokens(file)
    assert "\n" not in str(caught.value)
