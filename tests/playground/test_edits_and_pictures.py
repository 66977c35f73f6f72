"""The functions behind the page, without gradio: token pictures, edits, and what the page computes."""

import pytest
import torch
from PIL import Image

from smalti.errors import SmaltiError
from smalti.playground.edits import Region, add_noise, mask_tokens, most_frequent, swap_tokens
from smalti.playground.session import encode, read_sample, show
from smalti.playground.token_picture import token_picture
from smalti.tokenizers.bottlenecks import KL
from smalti.types import Code, Latents, TokenGrid

LEFT = Region(right=0.5)


def grid_of(ids):
    """Return tokens of one frame for ids (h, w) or (h, w, G)."""
    ids = torch.as_tensor(ids)
    ids = ids if ids.ndim == 3 else ids.unsqueeze(-1)
    h, w, g = ids.shape
    return TokenGrid(ids=ids.reshape(1, h * w, g), grids=((1, h, w),), size=(8 * h, 8 * w))


def test_equal_ids_have_equal_colors_and_others_different_ones():
    picture = token_picture(grid_of([[5, 7], [7, 5]]), min_size=2)
    assert picture.shape == (3, 2, 2)
    assert torch.equal(picture[:, 0, 0], picture[:, 1, 1])
    assert torch.equal(picture[:, 0, 1], picture[:, 1, 0])
    assert not torch.equal(picture[:, 0, 0], picture[:, 0, 1])
    colors = token_picture(grid_of(torch.arange(4096).view(64, 64)), min_size=1).flatten(1).unique(dim=1)
    assert colors.shape[1] > 4000


def test_very_large_ids_have_colors():
    assert token_picture(grid_of([[2**62, 2**62 + 1]]), min_size=1).flatten(1).unique(dim=1).shape[1] == 2


def test_pictures_have_a_map_per_token_and_the_frames_next_to_each_other():
    assert token_picture(grid_of(torch.zeros(2, 3, 2, dtype=torch.long)), min_size=1).shape == (3, 2, 6)
    picture = token_picture(grid_of(torch.arange(3).expand(2, 4, 3)), min_size=1)  # a block of 2 x 2 maps, one empty
    assert picture.shape == (3, 4, 8)
    maps = [picture[:, y : y + 2, x : x + 4].flatten(1).unique(dim=1) for y in (0, 2) for x in (0, 4)]
    assert [m.shape[1] for m in maps] == [1, 1, 1, 1]
    assert len({tuple(m.flatten().tolist()) for m in maps}) == 4
    assert maps[3].flatten().tolist() == [255] * 3
    clip = TokenGrid(
        ids=torch.zeros(1, 2 * 4 + 3 * 1, 1).long(), grids=((1, 2, 4), (3, 1, 1)), size=(16, 32), frames=25
    )
    assert token_picture(clip, min_size=2).shape == (3, 2, 4 + 3 * (4 + 2))
    assert token_picture(clip, frames=1, min_size=2).shape == (3, 2, 4)


def test_latents_are_pictures_too():
    latents = Latents(code=Code(torch.randn(1, 6, 2)), grids=((1, 2, 3),), size=(16, 24))
    assert token_picture(latents, min_size=8).shape == (3, 8, 12)


def test_swap_and_mask_change_only_their_region():
    tokens = grid_of([[1, 2, 1, 2]])
    assert swap_tokens(tokens, 1, 2).ids.flatten().tolist() == [2, 1, 2, 1]
    assert swap_tokens(tokens, 1, 2, LEFT).ids.flatten().tolist() == [2, 1, 1, 2]
    assert mask_tokens(tokens, 9, LEFT).ids.flatten().tolist() == [9, 9, 1, 2]
    assert tokens.ids.flatten().tolist() == [1, 2, 1, 2]


def test_a_region_applies_to_all_frames_and_grids():
    grids = ((1, 2, 4), (2, 1, 2))
    assert LEFT.positions(grids).tolist() == [True, True, False, False] * 2 + [True, False] * 2


def test_noise_has_its_probability_and_its_seed():
    tokens = grid_of(torch.full((64, 64), 2**40))
    noisy = add_noise(tokens, 0.25, codebook_size=1000, seed=1)
    changed = noisy.ids != tokens.ids
    assert 0.2 < changed.float().mean() < 0.3
    assert int(noisy.ids[changed].max()) < 1000
    assert torch.equal(noisy.ids, add_noise(tokens, 0.25, 1000, seed=1).ids)
    assert torch.equal(add_noise(tokens, 0, 1000).ids, tokens.ids)
    assert (add_noise(tokens, 1, 1000, region=LEFT).ids != tokens.ids).float().mean() == 0.5


def test_wrong_edits_are_one_sentence():
    with pytest.raises(SmaltiError, match="is empty or outside of the frame"):
        Region(top=0.5, bottom=0.25)
    with pytest.raises(SmaltiError, match="choose a number from 0 to 1"):
        add_noise(grid_of([[1]]), 2, 10)


def test_most_frequent_ids_come_first():
    assert most_frequent(grid_of([[3, 3, 1, 2, 2, 3]]), 2) == [3, 2]


def test_a_result_has_the_reconstruction_and_the_bits(small, photo, tmp_path):
    from smalti import save_image

    save_image(photo, tmp_path / "photo.png")
    sample = read_sample(tmp_path / "photo.png")
    tokenizer = small()
    tokens = encode(tokenizer, sample)
    result = show(tokenizer, sample, tokens)
    assert result.original.shape == result.reconstruction.shape == (1, 3, 64, 96)
    assert torch.equal(
        result.difference.int(), (4 * (result.original.int() - result.reconstruction.int()).abs()).clamp(max=255)
    )
    # 16 x 24 positions with 2 tokens of 4 bits
    assert "384 positions x 2 tokens of 16 values: 3,072 bits" in result.summary
    assert "0.5 bits per pixel, 1/48 of 24-bit RGB. PSNR " in result.summary
    edited = show(tokenizer, sample, mask_tokens(tokens, 15))
    assert not torch.equal(edited.picture, result.picture)


def test_continuous_tokenizers_and_large_images_are_shown(small, tmp_path):
    Image.new("RGB", (1030, 515), "red").save(tmp_path / "large.png")
    sample = read_sample(tmp_path / "large.png")
    assert sample.pixels.shape == (1, 3, 256, 512)
    tokenizer = small(KL(4))
    assert "positions x 4 channels" in show(tokenizer, sample, encode(tokenizer, sample)).summary
