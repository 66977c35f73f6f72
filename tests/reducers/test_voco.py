"""VoCo masks: text sees each image through its own VoCo tokens only, and all attention functions agree."""

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import flex_attention

from smalti.reducers import published_voco_mask, to_additive, to_mask_mod, voco_mask

#      s: system prompt, i: patches, v: VoCo, t: text
ROW = "ssiiivvttiivt"
IMAGE = torch.tensor([[c == "i" for c in ROW]])
VOCO = torch.tensor([[c == "v" for c in ROW]])


def visible(mask, query):
    return [key for key in range(mask.shape[2]) if mask[0, query, key]]


def test_text_sees_the_prompt_but_no_patches_before_their_voco_tokens():
    mask = voco_mask(VOCO, IMAGE)
    assert visible(mask, 6) == list(range(7))  # the VoCo tokens read their image
    assert visible(mask, 8) == [0, 1, 5, 6, 7, 8]
    assert visible(mask, 10) == [0, 1, 5, 6, 7, 8, 9, 10]
    assert visible(mask, 12) == [0, 1, 5, 6, 7, 8, 11, 12]


def test_the_published_mask_hides_the_prompt_and_shows_later_images():
    mask = published_voco_mask(VOCO)
    assert visible(mask, 12) == [5, 6, 7, 8, 9, 10, 11, 12]
    assert visible(mask, 8) == list(range(9))


def test_patches_without_voco_tokens_stay_visible():
    mask = voco_mask(torch.zeros_like(VOCO), IMAGE)
    assert torch.equal(mask[0], torch.ones(13, 13, dtype=torch.bool).tril())


def test_padding_on_either_side_changes_nothing():
    real = voco_mask(VOCO, IMAGE)
    for pad in ((3, 0), (0, 3)):
        attention = F.pad(torch.ones(1, 13, dtype=torch.bool), pad)
        padded = voco_mask(F.pad(VOCO, pad), F.pad(IMAGE, pad), attention)
        inside = slice(pad[0], pad[0] + 13)
        assert torch.equal(padded[:, inside, inside], real)
        assert padded.any(2).all()
        assert not padded[:, inside][:, :, ~attention[0]].any()


def test_boolean_additive_and_flex_attention_agree():
    mask = voco_mask(VOCO, IMAGE)
    q, k, v = torch.randn(3, 1, 2, 13, 8)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, attn_mask=to_additive(mask)), expected)
    allowed = to_mask_mod(mask)

    def score(value, batch, head, query, key):
        return torch.where(allowed(batch, head, query, key), value, -float("inf"))

    torch.testing.assert_close(flex_attention(q, k, v, score_mod=score), expected)
