"""VoCo-LLaMA's attention mask: text sees an image only through its VoCo tokens (arXiv 2406.12275).

A mask is (B, S, S): rows are queries, columns keys, True where a query may attend. `to_additive` and `to_mask_mod` convert
it for attention that takes a bias, and for flex_attention.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from smalti.errors import SmaltiError


def voco_mask(is_voco: Tensor, is_image: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Return a causal mask that hides the patches of each image behind its own VoCo tokens.

    The VoCo tokens of an image are the first run of VoCo tokens after its patches. Queries up to the end of this run see
    the patches, later ones do not. Everything else is causal: text sees the system prompt, which the published code hides.

    Args:
        is_voco: (B, S) True for VoCo tokens.
        is_image: (B, S) True for patches.
        attention_mask: (B, S) True for tokens, False for padding; None if there is none. Nothing sees padding, and padding
            sees itself only, which avoids NaN.

    Returns:
        (B, S, S) bool.

    Raises:
        SmaltiError: the shapes differ.
    """
    if is_voco.shape != is_image.shape or is_voco.ndim != 2:
        raise SmaltiError(
            f"is_voco has shape {tuple(is_voco.shape)}, is_image {tuple(is_image.shape)}: pass two masks (B, S)."
        )
    length = is_voco.shape[1]
    position = torch.arange(length, device=is_voco.device)
    ends = is_voco & ~torch.cat((is_voco[:, 1:], torch.zeros_like(is_voco[:, :1])), 1)
    # The end of the first run at or after each position: a reversed running minimum. `length` if there is none.
    marked = torch.where(ends, position, length)
    hidden_after = marked.flip(1).cummin(1).values.flip(1)
    visible = ~is_image[:, None] | (position[:, None] <= hidden_after[:, None])
    mask = visible & causal_mask(length, is_voco.device)
    if attention_mask is None:
        return mask
    real = attention_mask.bool()
    return (mask & real[:, None] & real[:, :, None]) | torch.eye(length, dtype=torch.bool, device=mask.device)


def published_voco_mask(is_voco: Tensor, attention_mask: Tensor | None = None, *, causal: bool = True) -> Tensor:
    """Return the mask of the published code.

    With first and last VoCo positions f and l, query i sees key j iff j <= l for i <= l, and iff j >= f for i > l. Text
    after the last VoCo token sees neither the images nor the system prompt before f; with several images, patches between
    f and l stay visible.

    Args:
        is_voco: (B, S) True for VoCo tokens.
        attention_mask: (B, S) True for tokens, False for padding. Tokens do not see padding; padding on the left sees
            everything.
        causal: whether the causal mask is applied too. Padding needs it.

    Returns:
        (B, S, S) bool.
    """
    length = is_voco.shape[1]
    position = torch.arange(length, device=is_voco.device)
    has_voco = is_voco.any(1)[:, None, None]
    first = torch.where(is_voco, position, length).amin(1)[:, None, None]
    last = torch.where(is_voco, position, -1).amax(1)[:, None, None]
    query, key = position[:, None], position
    mask = torch.where(query <= last, key <= last, key >= first) | ~has_voco
    if not causal:
        return mask
    mask = mask & causal_mask(length, is_voco.device)
    if attention_mask is not None:
        mask = mask & attention_mask.bool()[:, None]
        mask = mask | ~mask.any(2, keepdim=True)  # a row that sees nothing would be NaN: it sees everything
    return mask


def causal_mask(length: int, device: torch.device | None = None) -> Tensor:
    """Return (S, S), True where the key is not after the query."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def to_additive(mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return (B, 1, S, S): 0 where a query may attend, the smallest number of the type elsewhere."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(~mask, torch.finfo(dtype).min)[:, None]


def to_mask_mod(mask: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the function that `torch.nn.attention.flex_attention.create_block_mask` takes."""

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask[batch, query, key]

    return mask_mod
