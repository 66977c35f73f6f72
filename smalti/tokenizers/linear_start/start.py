"""Starting a tokenizer as a linear codec.

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; Z channels of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from smalti.tokenizers.linear_start.fitting import Errors
from smalti.tokenizers.linear_start.pyramid import Pyramid, gather_positions
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import unpack

_POSITIONS = 16384
"""Positions from which the bottleneck designs its code."""


@dataclass(frozen=True)
class StartReport:
    """What the start could fit.

    Attributes:
        errors: the share of the variance of its targets that each fitted layer does not explain, by the layer's name in the
            tokenizer.
    """

    errors: Errors = field(default_factory=dict)


@torch.no_grad()
def start_as_linear_codec(tokenizer: Tokenizer, batches: Sequence[Tensor]) -> StartReport:
    """Set the weights of a tokenizer so that it computes a linear codec, fitted to data.

    The encoder projects patches to principal components, the bottleneck codes them, and the decoder reconstructs the pixels
    by least squares. With several processes, all must call this, each with its own batches, and all get the same weights.

    Args:
        tokenizer: changed in place. Its training mode is restored.
        batches: pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1], of sizes that the encoder accepts.

    Raises:
        SmaltiError: the networks or the bottleneck have no such start.
    """
    training = tokenizer.training
    tokenizer.eval()
    try:
        clips = [batch if batch.ndim == 5 else batch.unsqueeze(2) for batch in batches]
        pyramid = Pyramid([clip.float() for clip in clips])
        encoder, bottleneck, decoder = tokenizer.encoder, tokenizer.bottleneck, tokenizer.decoder
        count = min(bottleneck.in_dim, 3 * math.prod(encoder.stride))
        coefficients = gather_positions(pyramid.coefficients(encoder.stride, count), _POSITIONS)
        variances = pyramid.components(encoder.stride, count).variances[:count]
        code = bottleneck.linear_start(coefficients, variances, encoder.hidden_units)
        errors = {f"encoder.{name}": error for name, error in encoder.linear_start(pyramid, code).items()}
        branches = list(tokenizer.branches.values()) or [tokenizer]
        latents = [branches[i % len(branches)].encode(clip) for i, clip in enumerate(pyramid.batches)]
        grids = [unpack(latent.code.z, latent.grids) for latent in latents]
        errors |= {f"decoder.{name}": e for name, e in decoder.linear_start(pyramid, code, grids).items()}
        return StartReport(errors)
    finally:
        tokenizer.train(training)
