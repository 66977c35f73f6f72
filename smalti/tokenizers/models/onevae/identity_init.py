"""Identity initialization of new layers in a network with trained weights.

The network initially computes the same function as without these layers, or nearly the same.

Shapes: Z latent channels, D quantizer channels.
"""

from __future__ import annotations

import torch
from torch import nn

from smalti.tokenizers.bottlenecks.projected import Projected
from smalti.tokenizers.models.onevae.blocks import CausalResidualBlock, layer_indices
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.resampling import Downsample, Upsample

_LATENT_SCALE = 0.5
"""Scale of latents before quantization. It minimizes the squared error of FSQ with 8 and 5 levels (12% of the variance)."""


@torch.no_grad()
def init_identity(layer: nn.Module, new: set[str]) -> None:
    """Initialize new parts of a layer close to the identity.

    A residual block becomes the identity, temporal downsampling the mean of two frames, and temporal upsampling the
    repetition of each frame.

    Args:
        layer: changed in place; layers of other classes are not changed.
        new: names of the layer's children that have no trained weights.
    """
    if isinstance(layer, CausalResidualBlock) and layer.shortcut is None and {"conv1", "conv2"} <= new:
        layer.conv2.weight.zero_()
    elif isinstance(layer, (Downsample, Upsample)) and "time" in new:
        layer.init_identity()


@torch.no_grad()
def init_first_frame(decoder: OneVAEDecoder) -> None:
    """Initialize the layers of the first frame's separate grid from the other layers.

    For a spatially constant grid, they compute the same as the other layers: latent 0 is the mean of four positions after
    the 1x1x1 convolution, and frame 0 is the result of the first upsampling.

    Args:
        decoder: a decoder with `first_frame`, changed in place.
    """
    to_latent, to_frame, head = decoder.first_to_latent, decoder.first_to_frame, decoder.head
    upsample = decoder.layers[layer_indices(decoder.layers, Upsample)[0]].space
    assert isinstance(upsample, nn.Conv2d)
    to_latent.weight.zero_()[:, :, :2, :2] = head.weight[..., 0] / 4
    to_frame.weight.copy_(upsample.weight.sum(dim=(2, 3), keepdim=True))
    for new, trained in ((to_latent, head), (to_frame, upsample)):
        assert new.bias is not None
        assert trained.bias is not None
        new.bias.copy_(trained.bias)


@torch.no_grad()
def init_projections(projected: Projected, channels: int) -> None:
    """Initialize projections to D orthonormal directions of the latent, and back.

    The directions are random, because no data is available to choose them. If D is at least `channels`, the latent is
    preserved. The remaining latent channels are not read, and the weights that write to them stay random.

    Args:
        projected: changed in place; unchanged if its quantizer has different numbers of input and output channels.
        channels: number of leading latent channels, at most Z, to use.
    """
    if projected.down.out_features != projected.up.in_features:
        return
    directions = projected.down.weight.new_empty(projected.down.out_features, channels)
    nn.init.orthogonal_(directions)
    projected.down.weight.zero_()[:, :channels] = directions * _LATENT_SCALE
    projected.up.weight[:channels] = directions.T / _LATENT_SCALE
    projected.down.bias.zero_()
    projected.up.bias.zero_()
