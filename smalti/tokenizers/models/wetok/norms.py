"""Group norms. Shapes: B batch; C channels; H, W positions; Z channels and h, w positions of the latent."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6
"""Epsilon of all norms, as in VQGAN and its successors."""


def group_norm(channels: int, groups: int | None) -> nn.Module:
    """Return a GroupNorm with epsilon 1e-6, or the identity if `groups` is None.

    The statistics are computed per image and group, which removes brightness and contrast. A narrow network has few
    channels to preserve them in, and learns slowly to restore them.

    Raises:
        ValueError: `groups` does not divide `channels`.
    """
    return nn.Identity() if groups is None else nn.GroupNorm(groups, channels, eps=EPS)


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift depend on the latent.

        y = GroupNorm(x) * gamma(std of z over space) + beta(mean of z over space)

    where gamma and beta are linear layers (MAGVIT-v2, arXiv 2310.05737, appendix; WeTok, arXiv 2508.05599). It is
    initialized as an ordinary group norm (gamma 1 and beta 0 for every latent). Random values would scale the signal
    randomly at every level.

    Args:
        latent_dim: channels Z of the latent.
        channels: channels C of x.
        groups: groups of the norm; None: x is scaled and shifted without normalization.
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
        """Normalize x (B, C, H, W), conditioned on the latent z (B, Z, h, w) without noise."""
        positions = z.flatten(2)
        mean = positions.mean(-1)
        # Tensor.std would be 0/0 for a 1x1 latent. Here its variance is 0.
        variance = (positions - mean.unsqueeze(-1)).square().sum(-1) / max(positions.shape[-1] - 1, 1)
        scale = self.gamma(torch.sqrt(variance + EPS))
        shift = self.beta(mean)
        normalized = x if self.groups is None else F.group_norm(x, self.groups, eps=EPS)
        return normalized * scale[..., None, None] + shift[..., None, None]
