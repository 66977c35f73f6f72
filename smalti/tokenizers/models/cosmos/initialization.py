"""Random initialization of Cosmos' networks."""

from __future__ import annotations

import torch
from torch import nn

from smalti.tokenizers.models.cosmos.blocks import Attention, ResidualBlock
from smalti.tokenizers.models.cosmos.layers import FactorizedConv
from smalti.tokenizers.models.cosmos.resampling import ClipDownsample, ClipUpsample


@torch.no_grad()
def init_weights(network: nn.Module) -> None:
    """Initialize an encoder or a decoder at random, as an image network that is applied to each frame.

    Convolutions preserve the variance, and biases are zero. The temporal part of a factorized convolution is the identity.
    Residual branches, and the convolutions next to a mean or a repetition, are small. This is not the authors'
    initialization, which is not published.

    Args:
        network: changed in place.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, FactorizedConv):
            nn.init.zeros_(module.time.weight)
            module.time.weight[:, :, -1, 0, 0].copy_(torch.eye(len(module.time.weight)))
        elif isinstance(module, Attention):
            module.proj.weight.mul_(0.2)
        elif isinstance(module, (ClipDownsample, ClipUpsample)):
            for conv in (module.space, module.time):
                if conv is not None:
                    conv.weight.mul_(0.2)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            last = module.conv2.space if isinstance(module.conv2, FactorizedConv) else module.conv2
            last.weight.mul_(0.2)
