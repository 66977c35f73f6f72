"""Latents and tokens: splitting a clip in time, joining the parts, packing grids, and moving to a device."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.types import Code, Latents, Layout, TokenGrid, pack, unpack


@st.composite
def clips(draw):
    """Draw a stride, and latents and tokens of a clip with one grid or with a larger grid for the first frame."""
    stride, steps = draw(st.integers(1, 4)), draw(st.integers(0, 5))
    first = draw(st.booleans())
    grids = ((1, 4, 2), *([(steps, 2, 1)] if steps else [])) if first else ((1 + steps, 2, 1),)
    padding = draw(st.integers(0, stride - 1)) if steps else 0
    layout = Layout(grids=grids, size=(7, 5), frames=1 + steps * stride - padding)
    z = torch.arange(2 * layout.positions * 3).view(2, -1, 3).float()
    ids = torch.arange(2 * layout.positions).view(2, -1, 1)
    shared = {"grids": layout.grids, "size": layout.size, "frames": layout.frames}
    return stride, Latents(code=Code(z, ids), **shared), TokenGrid(ids=ids, **shared)


@given(clips(), st.integers(1, 9))
def test_parts_of_a_clip_join_to_the_clip(clip, chunk):
    stride, latents, tokens = clip
    for whole in (latents, tokens, latents.layout()):
        parts = list(whole.split_time(stride, chunk))
        assert parts[0].frames == 1
        assert all(0 < part.frames <= max(chunk // stride, 1) * stride for part in parts[1:])
        joined = type(whole).join_time(parts)
        assert (joined.grids, joined.size, joined.frames) == (whole.grids, whole.size, whole.frames)
    assert torch.equal(Latents.join_time(latents.split_time(stride, chunk)).z, latents.z)
    assert torch.equal(Latents.join_time(latents.split_time(stride, chunk)).code.ids, latents.code.ids)
    assert torch.equal(TokenGrid.join_time(tokens.split_time(stride, chunk)).ids, tokens.ids)


def test_an_image_is_split_into_one_part():
    image = TokenGrid(ids=torch.zeros(1, 6, 1, dtype=torch.int64), grids=((1, 2, 3),), size=(4, 6))
    (part,) = image.split_time(4, 8)
    assert part.frames is None
    assert TokenGrid.join_time([part]) is part


def test_grids_are_packed_and_unpacked():
    grids = (torch.randn(2, 3, 1, 4, 4), torch.randn(2, 3, 5, 2, 2))
    latents = Latents.from_grids(grids, size=(8, 8), frames=11)
    assert latents.positions == latents.z.shape[1] == 16 + 20
    assert all(torch.equal(a, b) for a, b in zip(latents.to_grids(), grids, strict=True))
    z, shapes = pack(grids)
    assert all(torch.equal(a, b) for a, b in zip(unpack(z, shapes), grids, strict=True))


def test_a_part_of_a_code_has_no_losses():
    code = Code(torch.zeros(2, 4, 3), torch.zeros(2, 4, 1).long(), {"kl": torch.zeros(())}, branch="discrete")
    part = code[:1, 2:]
    assert part.z.shape == (1, 2, 3)
    assert part.ids is not None
    assert part.ids.shape == (1, 2, 1)
    assert (part.losses, part.branch) == ({}, "discrete")


def test_latents_are_built_from_one_tensor_per_grid():
    grid = torch.zeros(2, 3, 1, 4, 4)
    for latents in (grid, (grid[:, :, 0],)):
        with pytest.raises(SmaltiError, match=r"one tensor \(B, C, t, h, w\) per grid"):
            Latents.from_grids(latents, size=(8, 8))


def test_latents_move_with_their_layout():
    code = Code(torch.zeros(1, 4, 3), torch.zeros(1, 4, 1).long(), {"kl": torch.zeros(())}, branch="discrete")
    latents = Latents(code=code, grids=((1, 2, 2),), size=(3, 3))
    moved = latents.to("meta")
    assert moved.z.is_meta
    assert moved.code.ids is not None
    assert moved.code.ids.is_meta
    assert moved.code.branch == "discrete"
    assert moved.layout() == latents.layout()


@pytest.mark.parametrize("frames", [None, 5])
def test_tokens_move_with_their_layout(frames):
    tokens = TokenGrid(ids=torch.zeros(1, 2, 1).long(), grids=((1, 1, 2),), size=(3, 3), frames=frames)
    moved = tokens.to("meta")
    assert moved.ids.is_meta
    assert moved.layout() == tokens.layout()
