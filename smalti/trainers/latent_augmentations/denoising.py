"""l-DeTok: latents from which a decoder can remove noise.

Shapes: B batch; N positions; C channels.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.trainers.latent_augmentations.base import LatentAugmentation
from smalti.types import Code, Latents


class LatentDenoising(LatentAugmentation):
    """Mixes noise into the latents (l-DeTok, arXiv 2507.15856, interpolative latent noise).

        z <- (1 - s) z + s gamma e,  e ~ N(0, 1),  s ~ U(0, 1) for each sample

    The decoder has to reconstruct the pixels from corrupted latents, as a generator that denoises has to. It always decodes
    clean latents after training. The noise has the scale of z if the standard deviation of z is about 1, as with a KL loss;
    otherwise, scale `gamma` with it. The paper also masks patches of the encoder's input, for which this package has no
    encoder.

    Args:
        gamma: standard deviation of the noise.

    Raises:
        SmaltiError: `gamma` is negative.
    """

    def __init__(self, gamma: float = 3.0) -> None:
        super().__init__()
        if gamma < 0:
            raise SmaltiError(f"LatentDenoising has gamma {gamma}: use a standard deviation of 0 or more.")
        self.gamma = gamma

    def forward(self, latents: Latents, target: Tensor, stride: tuple[int, int, int]) -> tuple[Latents, Tensor]:
        """Return noisy latents and the same target. See `LatentAugmentation.forward`."""
        z = latents.z
        share = torch.rand(len(z), 1, 1, device=z.device, dtype=z.dtype)
        noisy = torch.lerp(z, self.gamma * torch.randn_like(z), share)
        return replace(latents, code=Code(noisy, branch=latents.code.branch)), target
