"""Random initialization of LTX-Video's networks."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from smalti.tokenizers.models.ltx.blocks import PixelNormBlock
from smalti.tokenizers.models.ltx.replication_pad_conv import ReplicationPadConv3d
from smalti.tokenizers.models.ltx.resampling import DepthToSpaceUpsample, SpaceToDepthDownsample


@torch.no_grad()
def init_weights(network: nn.Module) -> None:
    """Initialize an encoder or a decoder at random, close to a linear map, which learns from the first steps on.

    - Convolutions preserve the variance (with PyTorch's default, the signal shrinks to a third), and biases are zero.
    - Residual branches are small, and so are convolutions with a space-to-depth or depth-to-space residual connection.
    - The first and the last convolution have small weights except for the current position.
    - The first convolution has biases of one. Pixel norm removes the magnitude of the features, and with it brightness and
      contrast. Relative to a constant bias they are preserved, and norm and SiLU are nearly linear.

    Args:
        network: changed in place; its first and last convolutions are `conv_in` and `conv_out`.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, PixelNormBlock):
            module.conv2.conv.weight.mul_(0.2)
        elif isinstance(module, SpaceToDepthDownsample) or (
            isinstance(module, DepthToSpaceUpsample) and module.repeats
        ):
            module.conv.conv.weight.mul_(0.3)
    conv_in, conv_out = cast(ReplicationPadConv3d, network.conv_in), cast(ReplicationPadConv3d, network.conv_out)
    for conv in (conv_in, conv_out):
        weight = conv.conv.weight
        current_position = weight[:, :, -1 if conv.causal else 1, 1, 1]
        weight.mul_(0.1)
        nn.init.normal_(current_position, std=weight.shape[1] ** -0.5)
    assert conv_in.conv.bias is not None
    nn.init.ones_(conv_in.conv.bias)
