"""Random initialization of WeTok's networks."""

from __future__ import annotations

import torch
from torch import nn

from smalti.tokenizers.models.wetok.blocks import ResidualBlock


@torch.no_grad()
def init_weights(network: nn.Module) -> None:
    """Initialize an encoder or a decoder at random. Convolutions preserve the variance, and residual branches are small.

    With PyTorch's default, the signal shrinks to a third at each convolution, and small networks need several times as many
    steps to reach the same PSNR early in training. This is not the authors' initialization.

    Args:
        network: changed in place.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.conv2.weight.mul_(0.2)
