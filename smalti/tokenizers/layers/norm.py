"""Normalisation. Shapes: B batch, C channels, H, W positions, Z channels of the latent."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32
EPS = 1e-6


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of 32 groups, eps 1e-6, as the VQGAN line of image autoencoders has it.

    Raises:
        ValueError: channels that 32 does not divide.
    """
    return nn.GroupNorm(GROUPS, channels, eps=EPS)


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift are read off the latent that is being decoded.

        y = GroupNorm(x) * gamma(std of z over space) + beta(mean of z over space)

    with gamma and beta linear (MAGVIT-v2, arXiv 2310.05737, appendix; WeTok, arXiv 2508.05599). Fresh, it is a plain group
    norm: gamma is 1 and beta is 0 for every latent, so that what passes is not scaled at random at each level.

    Args:
        latent_dim: channels Z of the latent.
        channels: channels C of x.
    """

    def __init__(self, latent_dim: int, channels: int) -> None:
        super().__init__()
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
        return F.group_norm(x, GROUPS, eps=EPS) * scale[..., None, None] + shift[..., None, None]
