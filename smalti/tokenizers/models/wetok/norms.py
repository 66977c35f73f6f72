"""Normalisation. Shapes: B batch, C channels, H, W positions, Z channels of the latent."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6


def group_norm(channels: int, groups: int | None) -> nn.Module:
    """GroupNorm with eps 1e-6, as the VQGAN line of image autoencoders has it (with 32 groups); None: no norm.

    The norm is over an image, so it takes its brightness and contrast away from each group, and a narrow network, which
    has few channels a group to keep them in, learns them back slowly.

    Raises:
        ValueError: channels that `groups` does not divide.
    """
    return nn.Identity() if groups is None else nn.GroupNorm(groups, channels, eps=EPS)


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift are read off the latent that is being decoded.

        y = GroupNorm(x) * gamma(std of z over space) + beta(mean of z over space)

    with gamma and beta linear (MAGVIT-v2, arXiv 2310.05737, appendix; WeTok, arXiv 2508.05599). Fresh, it is a plain group
    norm: gamma is 1 and beta is 0 for every latent, so that what passes is not scaled at random at each level.

    Args:
        latent_dim: channels Z of the latent.
        channels: channels C of x.
        groups: of the norm; None: x is scaled and shifted as it is.
    """

    def __init__(self, latent_dim: int, channels: int, groups: int | None) -> None:
        super().__init__()
        self.groups = groups
        self.gamma = nn.Linear(latent_dim, channels)
        self.beta = nn.Linear(latent_dim, channels)
        nn.init.zeros_(self.gamma.weight)
        nn.init.ones_(self.gamma.bias)
        nn.init.zeros_(self.beta.weight)
        nn.init.zeros_(self.beta.bias)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """(B, C, H, W) and the clean latent (B, Z, h, w) to (B, C, H, W)."""
        flat = z.flatten(2)
        mean = flat.mean(-1)
        # The unbiased variance of a single position is 0/0; a latent of 1 x 1 must stay finite, so there it is 0.
        variance = (flat - mean.unsqueeze(-1)).square().sum(-1) / max(flat.shape[-1] - 1, 1)
        scale = self.gamma(torch.sqrt(variance + EPS))
        shift = self.beta(mean)
        normed = x if self.groups is None else F.group_norm(x, self.groups, eps=EPS)
        return normed * scale[..., None, None] + shift[..., None, None]
