"""Reconstruction, with noise that depends on the sample and not on its batch.

Shapes: B batch; T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.channel_views import measured_values
from smalti.seeds import derive_seed
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch, Latents


@torch.no_grad()
def reconstruct(tokenizer: Tokenizer, batch: Batch, *, seed: int = 0) -> tuple[Tensor, Latents]:
    """Encode and decode a batch. Photos are rounded to 8 bits, see `measured_values`.

    Args:
        tokenizer: in evaluation mode, on the device of the pixels.
        batch: pixels (B, C, H, W) or (B, C, T, H, W) in [-1, 1], and names.
        seed: seed for the noise of a generative decoder. The noise of a sample depends only on the seed and its name.

    Returns:
        What is measured, in the shape of the pixels, without the tokenizer's padding, and the latents.

    Raises:
        SmaltiError: a reconstruction contains NaN or infinite values.
    """
    weight = next(tokenizer.parameters(), batch.pixels)
    latents = tokenizer.encode(batch.pixels.to(weight.dtype))
    decoded = decode_latents(tokenizer, latents, batch.names, seed=seed)
    for name, finite in zip(batch.names, decoded.isfinite().flatten(1).all(1).tolist(), strict=True):
        if not finite:
            raise SmaltiError(
                f"The reconstruction of '{name}' contains NaN or infinite values: the weights are damaged, or the "
                f"tokenizer overflows in {decoded.dtype}; try float32."
            )
    return measured_values(decoded, tokenizer.channels), latents


@torch.no_grad()
def decode_latents(tokenizer: Tokenizer, latents: Latents, names: Sequence[str], *, seed: int = 0) -> Tensor:
    """Decode a batch of latents.

    Args:
        tokenizer: in evaluation mode, on the device of the latents.
        latents: latents of B samples.
        names: B names.
        seed: seed for the noise of a generative decoder. The noise of a sample depends only on the seed and its name.

    Returns:
        (B, C, H, W) or (B, C, T, H, W), not clamped.
    """
    if not tokenizer.decoder.generative:
        return tokenizer.decode(latents)
    # A call takes one generator, so each sample is decoded in its own call.
    seeds = [derive_seed(seed, name) for name in names]
    return torch.cat([_decode_sample(tokenizer, latents, index, seed) for index, seed in enumerate(seeds)])


def _decode_sample(tokenizer: Tokenizer, latents: Latents, index: int, seed: int) -> Tensor:
    generator = torch.Generator(latents.z.device).manual_seed(seed)
    return tokenizer.decode(replace(latents, code=latents.code[index : index + 1]), generator)
