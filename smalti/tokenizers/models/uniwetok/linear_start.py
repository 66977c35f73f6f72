"""Starting UniWeTok's encoder as a linear codec, as WeTok's (`smalti.tokenizers.models.wetok.linear_start`).

The attention blocks start as the identity, and SigLu keeps the signs of the last convolution. No activation function
precedes that convolution: the last residual block computes hidden units if the network is wide and has no norms.

Shapes: C channels of the last level; Z channels of the latent; K coefficients; U hidden units.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.tokenizers.linear_start.code import StartCode, linear_units
from smalti.tokenizers.linear_start.fitting import Errors, center_weights, code_targets, frame_images
from smalti.tokenizers.linear_start.least_squares import fit_convolution
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.models.uniwetok.encoder import DownBlock, UniWeTokEncoder
from smalti.tokenizers.models.wetok.blocks import ResidualBlock
from smalti.tokenizers.models.wetok.linear_start import fit_trunk, level_layers, undo_norms


@torch.no_grad()
def fit_encoder(encoder: UniWeTokEncoder, pyramid: Pyramid, code: StartCode) -> Errors:
    """Set the weights of an encoder so that it computes a code of principal components.

    Args:
        encoder: changed in place; on the device of the data, in evaluation mode.
        pyramid: the data.
        code: what the bottleneck expects.

    Returns:
        The share of the variance of its targets that each fitted layer does not explain.
    """
    encoder.attention.set_to_identity()
    layers = [("conv_in", encoder.conv_in), *level_layers(encoder.levels)]
    if code.output is None:
        plain = code.count, torch.eye(code.count, code.count + 1, device=code.hidden.device)
        count, units = undo_norms(encoder, layers, pyramid, code.count) or plain
        x, used, errors = fit_trunk(layers, pyramid, count, units)
        x = [encoder.norm_out(h) for h in x]
        targets = code_targets(code, frame_images(pyramid.coefficients(encoder.stride, code.count)))
        errors["conv_out"] = fit_convolution(encoder.conv_out, x, targets, used)
        return errors
    constant = F.one_hot(torch.tensor([code.count]), code.count + 1)
    units = torch.cat([linear_units(code.count, code.count), constant]).to(code.hidden)
    _, used, errors = fit_trunk(layers, pyramid, code.count, units)
    levels = cast(list[DownBlock], encoder.levels)
    for parameter in levels[-2].downsample.parameters():  # the last convolution of the trunk
        parameter[used:] = 0.0
    _compute_code(cast(ResidualBlock, levels[-1].blocks[-1]), code.hidden, code.output, code.count)
    weights = center_weights(encoder.conv_out).zero_()
    weights[:, -encoder.out_dim :] = torch.eye(encoder.out_dim)
    assert encoder.conv_out.bias is not None
    encoder.conv_out.bias.zero_()
    return errors


def _compute_code(block: ResidualBlock, hidden: Tensor, output: Tensor, count: int) -> None:
    """Let a residual block compute a code in its last Z channels, which must be zero in its input.

    Args:
        block: without norms. Its input has the coefficients and their negatives in turn, then a channel of ones.
        hidden: (U, K + 1) see `StartCode`.
        output: (Z, U + 1) see `StartCode`.
        count: number of coefficients.
    """
    one = F.silu(torch.ones(()))
    affine = torch.cat([hidden[:, :count], hidden[:, -1:]], dim=1)
    affine = torch.cat([affine, F.one_hot(torch.tensor([count]), count + 1).to(affine)])  # the last unit is constant
    block.conv1.weight.zero_()
    first = center_weights(block.conv1)[: len(affine)]
    first[:, : 2 * count : 2] = affine[:, :-1]  # silu(c) - silu(-c) = c
    first[:, 1 : 2 * count : 2] = -affine[:, :-1]
    first[:, 2 * count] = affine[:, -1] / one
    second = center_weights(block.conv2)[-len(output) :]
    second[:, : len(hidden)] = output[:, :-1]
    second[:, len(hidden)] = output[:, -1] / one
