"""Nominal bits of latents: what the baseline and other rivals of a tokenizer may spend."""

from __future__ import annotations

from smalti.tokenizers.tokenizer import Tokenizer

CONTINUOUS_CHANNEL_BITS = 16
"""Bits counted per latent channel of a continuous tokenizer, as in the tables of WeTok (arXiv 2508.05599)."""

TOKENS = "log2(codebook size) bits per token, without entropy coding"
"""How the bits of discrete latents are counted."""

CHANNELS = f"{CONTINUOUS_CHANNEL_BITS} bits per latent channel, a convention: real numbers have no number of bits"
"""How the bits of continuous latents are counted."""


def bits_per_position(tokenizer: Tokenizer) -> float:
    """Return the nominal bits per latent position: those of the tokens, or 16 per channel if there are no tokens."""
    if tokenizer.discrete:
        return tokenizer.quantizer.bits_per_position
    return CONTINUOUS_CHANNEL_BITS * tokenizer.bottleneck.out_dim


def counting(tokenizer: Tokenizer) -> str:
    """Return how `bits_per_position` counts, for reports."""
    return TOKENS if tokenizer.discrete else CHANNELS
