"""Saliency of the latents of a tokenizer, by name: what selectors use instead of the attention of a vision transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers import saliency
from smalti.reducers.latents import split_maps
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Latents

SALIENCY = {
    "contrast": "distance of a latent from the mean of its 3 x 3 neighborhood",
    "norm": "norm of the latent",
    "error": "squared error of the reconstruction of the position's pixels",
    "surprise": "bits of the position's ids, by their frequencies in the sample (discrete tokenizers)",
}
"""Choices and what they measure."""


def latent_saliency(name: str, tokenizer: Tokenizer, latents: Latents, pixels: Tensor) -> Tensor:
    """Return the saliency (B, N) of every position.

    Args:
        name: one of `SALIENCY`.
        tokenizer: the tokenizer, in evaluation mode.
        latents: its latents of the pixels.
        pixels: (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].

    Raises:
        SmaltiError: the name is unknown, or the tokenizer has no ids and "surprise" is requested.
    """
    if name not in SALIENCY:
        raise SmaltiError(f"There is no saliency '{name}': choose from {', '.join(SALIENCY)}.")
    if name == "norm":
        return saliency.feature_norm(latents.z)
    if name == "contrast":
        maps = zip(split_maps(latents.z, latents.grids), latents.grids, strict=True)
        parts = [saliency.feature_contrast(part, (h, w)).unflatten(0, (-1, t)) for part, (t, h, w) in maps]
        return torch.cat([part.flatten(1) for part in parts], 1)
    if name == "surprise":
        if latents.code.ids is None:
            raise SmaltiError(
                "This tokenizer is continuous and has no ids, which the saliency 'surprise' needs: choose contrast, norm "
                "or error."
            )
        return saliency.token_surprise(latents.code.ids, tokenizer.quantizer.codebook_size)
    error = (tokenizer.decode(latents).to(pixels) - pixels).square().mean(1, keepdim=True)
    clips = error if error.ndim == 5 else error.unsqueeze(2)
    # A smaller last cell is padded by repetition, like the pixels that were encoded.
    return torch.cat([F.adaptive_avg_pool3d(clips, grid).flatten(1) for grid in latents.grids], 1)
