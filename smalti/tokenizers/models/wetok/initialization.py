"""Random initialization of WeTok's networks."""

from __future__ import annotations

import torch
from torch import nn

from smalti.tokenizers.models.wetok.blocks import ResidualBlock


@torch.no_grad()
def init_weights(network: nn.Module) -> None:
    """Initialize an encoder or a decoder at random, with preserved signal variance and small residual branches.

    Published weights replace this initialization, so it need not match the authors'. PyTorch's default reduces the signal
    to a third at each convolution, and a small network then needs several times as many steps for its first decibels.

    Args:
        network: changed in place.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.conv2.weight.mul_(0.2)
