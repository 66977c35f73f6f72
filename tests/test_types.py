"""Splitting and joining clips along time."""

import pytest
import torch

from smalti.tokenizers.tokenizer import get_tokens
from smalti.types import TokenGrid


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_parts_of_a_clip_join_to_the_whole_clip(small, chunk):
    tokenizer = small().double()  # in float32, a chunk of another length may round a channel near 0 to the other sign
    x = torch.rand(1, 3, 7, 12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
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
