"""LTX-Video's encoder and decoder (arXiv 2501.00103): 32 x 32 x 8 pixels become one position, from lists of blocks.

A clip of 1 + 8 k frames becomes 1 + k latents. The encoder is causal. The decoder need not be: it then looks ahead, by one
frame a layer, and holds frames back in a stream. It may be the last step of denoising as well: it then sees the latent with
a little noise, and is told how much.

Shapes: B batch, T frames, H, W pixels; t, h, w latent positions; s, f the strides in time and space; C channels, Z latent.
"""

from __future__ import annotations

from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.models.ltx.space_to_depth import depth_to_space, space_to_depth


def check_shape(dim: int, channels: int, patch: int) -> None:
    if min(dim, channels, patch) < 1:
        raise SmaltiError(f"Latent channels {dim}, channels {channels} and patch {patch} must each be at least 1.")


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, 3, T, H, W) to (B, 3 p p, T, H / p, W / p); channels are ordered (colour, column, row), as published."""
    return space_to_depth(x.transpose(3, 4), (1, patch, patch)).transpose(3, 4)


def unpatchify(x: Tensor, patch: int) -> Tensor:
    """The inverse of `_patches`."""
    return depth_to_space(x.transpose(3, 4), (1, patch, patch)).transpose(3, 4)
