"""Reconstructions whose noise belongs to the sample, not to its batch.

Shapes: B batch, T frames, H, W pixels.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.pixels import pixels_to_uint8
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch, Code, Latents


def sample_seed(seed: int, name: str) -> int:
    """The seed of one sample's noise, in [0, 2^63): the first bits of SHA-256 of "seed:name"."""
    text = f"{seed}:{name}".encode(errors="surrogateescape")  # names of files need not be UTF-8
    return int.from_bytes(hashlib.sha256(text).digest()[:8]) >> 1


@torch.no_grad()
def reconstruct(tokenizer: Tokenizer, batch: Batch, *, seed: int = 0) -> tuple[Tensor, Latents]:
    """Reconstructions of a batch at 8 bits; the noise of a generative decoder follows from `seed` and the name alone.

    Args:
        tokenizer: in evaluation mode, on the device of the pixels.
        batch: pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1], and names.
        seed: of the noise.

    Returns:
        uint8 of the shape of the pixels (what a tokenizer pads is trimmed), and the latents between.

    Raises:
        SmaltiError: a reconstruction that is not finite, by name.
    """
    weight = next(tokenizer.parameters(), batch.pixels)
    latents = tokenizer.encode(batch.pixels.to(weight.dtype))
    if tokenizer.decoder.generative:
        # One generator serves one call, so samples with a seed of their own are decoded one by one.
        decoded = torch.cat([_decode_one(tokenizer, latents, i, seed, name) for i, name in enumerate(batch.names)])
    else:
        decoded = tokenizer.decode(latents)
    for name, finite in zip(batch.names, decoded.isfinite().flatten(1).all(1).tolist(), strict=True):
        if not finite:
            raise SmaltiError(
                f"The reconstruction of '{name}' is not finite: the weights are damaged, or {decoded.dtype} is too "
                "small a type for this tokenizer; try float32."
            )
    return pixels_to_uint8(decoded), latents


def _decode_one(tokenizer: Tokenizer, latents: Latents, index: int, seed: int, name: str) -> Tensor:
    one = slice(index, index + 1)
    ids = latents.code.ids
    code = Code(z=latents.z[one], ids=None if ids is None else ids[one])
    generator = torch.Generator(latents.z.device).manual_seed(sample_seed(seed, name))
    return tokenizer.decode(replace(latents, code=code), generator)
