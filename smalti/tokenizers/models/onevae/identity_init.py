"""Layers that start as plain operations, where a network is to begin with what another one does.

Shapes: Z channels of the latent, D of the quantizer.
"""

from __future__ import annotations

import torch
from torch import nn

from smalti.tokenizers.bottlenecks.projected import Projected
from smalti.tokenizers.models.onevae.blocks import CausalResidualBlock
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.resampling import Downsample, Upsample

_SPREAD = 0.5
"""What a latent is scaled by before it is quantized: of a unit normal one, FSQ of 8 and 5 levels then loses least, 12%."""


@torch.no_grad()
def init_identity(layer: nn.Module, new: set[str]) -> None:
    """A residual block starts as the identity, fewer frames as the mean of two, and more frames as each of them twice.

    Args:
        layer: changed in place; any other than these stays fresh.
        new: names of its children that are to start.
    """
    if isinstance(layer, CausalResidualBlock) and layer.shortcut is None and {"conv1", "conv2"} <= new:
        layer.conv2.weight.zero_()
    elif isinstance(layer, (Downsample, Upsample)) and "time" in new:
        layer.start_plain()


@torch.no_grad()
def init_first_frame(decoder: OneVAEDecoder) -> None:
    """The first frame's own grid starts as what the other layers would make of it, were it even over neighbours.

    Latent 0 is the mean of four of its positions, through the head that it does not pass otherwise; and frame 0 is what the
    first up-sampling makes of an even picture.
    """
    to_latent, to_frame, head = decoder.first_to_latent, decoder.first_to_frame, decoder.head
    up = next(layer for layer in decoder.layers if isinstance(layer, Upsample)).space
    assert up is not None
    to_latent.weight.zero_()[:, :, :2, :2] = head.weight[..., 0] / 4
    to_frame.weight.copy_(up.weight.sum(dim=(2, 3), keepdim=True))
    for ours, theirs in ((to_latent, head), (to_frame, up)):
        assert ours.bias is not None
        assert theirs.bias is not None
        ours.bias.copy_(theirs.bias)


@torch.no_grad()
def init_projections(projected: Projected, channels: int) -> None:
    """D orthonormal directions of the first `channels` of Z, and back; all of them where the quantizer has more.

    There are no data to ask for better directions. Other channels are not read; what is written to them stays fresh.
    """
    if projected.down.out_features != projected.up.in_features:
        return
    directions = projected.down.weight.new_empty(projected.down.out_features, channels)
    nn.init.orthogonal_(directions)
    projected.down.weight.zero_()[:, :channels] = directions * _SPREAD
    projected.up.weight[:channels] = directions.T / _SPREAD
    projected.down.bias.zero_()
    projected.up.bias.zero_()
