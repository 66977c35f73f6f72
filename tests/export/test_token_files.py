"""Token files hold what it takes to come back, and clips go through them part by part."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from smalti.errors import SmaltiError
from smalti.export.token_files import TokenFile, holds_clip, load_tokens, save_tokens
from smalti.tokenizers.tokenizer import get_tokens
from smalti.types import TokenGrid


def content(frames=None, rate=None, ids=None, grids=((1, 4, 4), (2, 2, 2))):
    ids = torch.arange(48).reshape(1, 24, 2) if ids is None else ids
    return TokenFile(TokenGrid(ids=ids, grids=grids, size=(30, 31), frames=frames), "where", "f" * 64, rate)


@settings(max_examples=30, deadline=None)
@given(
    codes=st.sampled_from([2, 256, 257, 2**16, 2**16 + 1, 2**32, 2**32 + 1]),
    rate=st.one_of(st.none(), st.fractions(min_value=Fraction(1, 10), max_value=1000, max_denominator=1001)),
    seed=st.integers(0, 99),
)
def test_a_file_gives_back_what_was_saved(tmp_path_factory, codes, rate, seed):
    file = tmp_path_factory.mktemp("tokens") / "a.safetensors"
    ids = torch.randint(codes, (1, 24, 2), generator=torch.Generator().manual_seed(seed))
    ids[0, 0, 0] = codes - 1
    saved = content(None if rate is None else 5, rate, ids)
    save_tokens(file, saved, codes)
    found = load_tokens(file)
    assert torch.equal(found.tokens.ids, ids)
    assert found.tokens.ids.dtype == torch.int64
    assert (found.tokens.grids, found.tokens.size) == (saved.tokens.grids, saved.tokens.size)
    assert (found.tokens.frames, found.rate) == (saved.tokens.frames, rate)
    assert (found.tokenizer, found.fingerprint) == (saved.tokenizer, saved.fingerprint)
    assert holds_clip(file) == (rate is not None)
    with safe_open(file, "pt") as opened:
        assert opened.get_tensor("ids").element_size() == next(n for n in (1, 2, 4, 8) if codes <= 256**n)


def test_a_clip_has_a_rate_and_an_image_has_none():
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
def test_damaged_metadata_are_told_in_one_sentence(tmp_path, change):
    file = tmp_path / "a.safetensors"
    save_tokens(file, content(5, Fraction(25)), 48)
    with safe_open(file, "pt") as opened:
        metadata, ids = opened.metadata() | change, opened.get_tensor("ids")
    save_file({"ids": ids}, file, {key: value for key, value in metadata.items() if value is not None})
    with pytest.raises(SmaltiError, match="is damaged") as caught:
        load_tokens(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_parts_of_a_clip_join_to_the_whole(small, chunk):
    tokenizer = small()
    x = torch.rand(1, 3, 7, 12, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        whole = tokenizer.tokenize(x)
        joined = TokenGrid.join_time(map(get_tokens, tokenizer.encode_stream(x.split(chunk, dim=2))))
    assert (joined.grids, joined.size, joined.frames) == (whole.grids, whole.size, whole.frames)
    assert torch.equal(joined.ids, whole.ids)
    parts = list(whole.split_time(1, chunk))
    assert [part.frames for part in parts] == [1] + {1: [1] * 6, 3: [3, 3], 100: [6]}[chunk]
    assert torch.equal(torch.cat([part.ids for part in parts], dim=1), whole.ids)


def test_an_image_is_one_part(small):
    with torch.no_grad():
        image = small().tokenize(torch.zeros(1, 3, 9, 9))
    (part,) = image.split_time(1, 4)
    assert part.frames is None
    assert torch.equal(part.ids, image.ids)
    assert part.grids == image.grids
