"""Random initialization of OneVAE's networks."""

from __future__ import annotations

import torch
from torch import nn

from smalti.tokenizers.models.onevae.blocks import CausalResidualBlock, FrameAttention
from smalti.tokenizers.models.onevae.causal_conv import CausalConv3d
from smalti.tokenizers.models.onevae.resampling import Downsample, Upsample


@torch.no_grad()
def init_weights(network: nn.Module) -> None:
    """Initialize an encoder or a decoder at random, as an image network that is applied to each frame.

    - Convolutions preserve the variance (with PyTorch's default, the signal shrinks to a third at each one), and biases are
      zero.
    - Causal convolutions have zero weights for previous frames, as in 3-D networks inflated from 2-D ones (MAGVIT-v2, arXiv
      2310.05737). With random weights for all three frames, images and the first frames of a clip would have a weaker
      signal than later frames, because the padding before the clip is zero.
    - Temporal downsampling averages two frames, and temporal upsampling repeats each frame.
    - Residual branches are small.

    This is not the authors' initialization: they started from the weights of another network.

    Args:
        network: changed in place.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            if isinstance(module, CausalConv3d):
                nn.init.zeros_(module.weight)
                nn.init.kaiming_normal_(module.weight[:, :, -1], nonlinearity="linear")
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, CausalResidualBlock):
            module.conv2.weight.mul_(0.2)
        elif isinstance(module, FrameAttention):
            module.proj.weight.mul_(0.2)
        elif isinstance(module, (Downsample, Upsample)):
            module.init_identity()
