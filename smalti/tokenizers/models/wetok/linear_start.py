"""Starting WeTok's networks as a linear codec.

Residual branches are zero, and the shortcuts carry principal components of ever larger patches: a 3x3 convolution with
stride 2 can combine four positions, and a convolution before depth-to-space can separate them. Each layer is fitted by
least squares to the inputs that the layers before it give. Without norms, encoder and decoder are then linear up to their
last SiLU, which a pair of units with opposite signs cancels. Group norms are undone if their groups have room for large
constants (`GroupNormLayout`). Elsewhere, the result is the best fit.

Shapes: B images (frames of all clips); C channels; H, W positions; Z channels and h, w positions of the latent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.layers.frames import video_to_images
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import (
    CODE_RIDGE,
    Errors,
    apply_affine,
    center_weights,
    code_targets,
    limit_components,
    signed_pair,
)
from smalti.tokenizers.linear_start.least_squares import NormalEquations, fit_convolution
from smalti.tokenizers.linear_start.level_table import LevelTable
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.models.wetok.blocks import DepthToSpace, ResidualBlock
from smalti.tokenizers.models.wetok.decoder import UpBlock, WeTokDecoder
from smalti.tokenizers.models.wetok.encoder import DownBlock, WeTokEncoder
from smalti.tokenizers.models.wetok.group_norm_layout import NormInput, group_norm_layout
from smalti.tokenizers.models.wetok.norms import EPS, AdaptiveGroupNorm

_BRANCH_SCALE = 0.1
"""Scale of the second norm of residual branches. With 1, the first steps of training would destroy the start: the last
convolution of a branch starts at zero, and its first steps are as large as its inputs."""

_NORM_RIDGE = 1e-2
"""Ridge parameter of the scale and the shift of a norm, which have one observation per image."""


@torch.no_grad()
def fit_encoder(encoder: WeTokEncoder, pyramid: Pyramid, code: StartCode) -> Errors:
    """Set the weights of an encoder so that it computes a code of principal components.

    Args:
        encoder: changed in place; on the device of the data, in evaluation mode.
        pyramid: the data.
        code: what the bottleneck expects.

    Returns:
        The share of the variance of its targets that each fitted layer does not explain.
    """
    layers = [("conv_in", encoder.conv_in), *level_layers(encoder.levels)]
    layers += [(f"middle.{i}", block) for i, block in enumerate(encoder.middle)]
    count, hidden = code.count, code.hidden
    coefficients = _images(pyramid.coefficients(encoder.stride, count))
    norm_input, coefficients = _before_norm(coefficients, encoder.conv_out.in_channels, encoder.groups)
    if norm_input is not None:
        count, hidden = coefficients[0].shape[1], norm_input.affine
        last = max(i for i, (_, layer) in enumerate(layers) if _convolution(layer) is not None)
        for norm in [*_first_norms(layer for _, layer in layers[last + 1 :]), encoder.norm_out]:
            norm_input.undo(norm)
    x, used, errors = fit_trunk(layers, pyramid, count, hidden)
    x = [F.silu(encoder.norm_out(h)) for h in x]
    if code.output is not None and len(code.hidden) <= encoder.hidden_units:
        _set_convolution(encoder.conv_out, code.output)
    else:
        targets = _images(code_targets(pyramid, code, encoder.stride))
        errors["conv_out"] = fit_convolution(encoder.conv_out, x, targets, used, ridge=CODE_RIDGE)
    return errors


def fit_trunk(
    layers: Sequence[tuple[str, nn.Module]], pyramid: Pyramid, count: int, units: Tensor
) -> tuple[list[Tensor], int, Errors]:
    """Set the weights of all layers up to the last norm of an encoder.

    Args:
        layers: the layers with their names; convolutions, residual blocks and identities.
        pyramid: the data.
        count: number of coefficients on which the units depend, the first ones of K.
        units: (U, K + 1) affine functions of the coefficients that the last layer computes, as in `StartCode.hidden`.

    Returns:
        The outputs (B, C, H, W) of the last layer, the number of units that it computes, and the errors of the layers.
    """
    errors: Errors = {}
    last = max(i for i, (_, layer) in enumerate(layers) if _convolution(layer) is not None)
    x = [video_to_images(batch) for batch in pyramid.batches]
    used, stride = 3, 1
    for i, (name, layer) in enumerate(layers):
        if isinstance(layer, ResidualBlock):
            _zero_branch(layer)
        conv = _convolution(layer)
        if conv is not None:
            stride *= conv.stride[0]
            if i == last:
                errors[name], used = _fit_hidden_units(conv, x, pyramid, units, count, stride, used)
            elif conv.stride[0] == 2:
                targets = _images(_with_constant(_components(pyramid, stride, conv.out_channels - 1)))
                errors[name] = fit_convolution(conv, x, targets, used)
                used = targets[0].shape[1]
            else:
                used = min(used, conv.out_channels)
                _pass_channels(conv, used)
        x = [_pass(layer, h) for h in x]
    return x, used, errors


def level_layers(levels: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """Return the layers of an encoder's levels, with their names."""
    layers: list[tuple[str, nn.Module]] = []
    for i, level in enumerate(cast(list[DownBlock], levels)):
        layers += [(f"levels.{i}.blocks.{j}.shortcut", block) for j, block in enumerate(level.blocks)]
        layers.append((f"levels.{i}.downsample", level.downsample))
    return layers


@torch.no_grad()
def fit_decoder(decoder: WeTokDecoder, pyramid: Pyramid, code: StartCode, latents: Sequence[Tensor]) -> Errors:
    """Set the weights of a decoder so that it reconstructs the pixels from codewords as well as a linear map can.

    Args:
        decoder: changed in place; on the device of the data, in evaluation mode.
        pyramid: the data.
        code: what the bottleneck returns.
        latents: codewords (B, Z, T, h, w) of each batch.

    Returns:
        The share of the variance of its targets that each fitted layer does not explain.
    """
    errors: Errors = {}
    stride = 2 ** (len(decoder.levels) - 1)
    z = [video_to_images(grid) for grid in latents]
    for module in decoder.modules():
        if isinstance(module, ResidualBlock):
            _zero_branch(module)
    noise = [h.new_zeros(len(h), decoder.conv_in.in_channels - h.shape[1], *h.shape[2:]) for h in z]
    x = [torch.cat(pair, dim=1) for pair in zip(z, noise, strict=True)]
    width = decoder.conv_in.out_channels
    levels = None
    if code.readout is not None and decoder.groups is None and isinstance(decoder.middle[0], ResidualBlock):
        levels = LevelTable(code.readout, width)
        width -= levels.channels
    targets = _images(_components(pyramid, stride, width))
    norm_input, targets = _before_norm(targets, width, decoder.groups)
    used = torch.arange(targets[0].shape[1])
    if levels is None:
        errors["conv_in"] = fit_convolution(decoder.conv_in, x, targets, decoder.in_dim)
    else:
        errors["conv_in"] = levels.fit(decoder.conv_in, decoder.middle[0], x, targets)
    if norm_input is not None:
        norm_input.expand(decoder.conv_in)
        for norm in _first_norms(decoder.middle):
            norm_input.undo(norm)
    x = [decoder.middle(decoder.conv_in(h)) for h in x]
    for index in reversed(range(len(decoder.levels))):
        level, name = cast(UpBlock, decoder.levels[index]), f"levels.{index}"
        if norm_input is not None:
            ends = index == 0 and isinstance(cast(ResidualBlock, level.blocks[0]).shortcut, nn.Identity)
            norm_input.undo(level.norm, norm_input.constant if ends else 1.0)
            used = norm_input.positive
        elif level.norm.groups is not None:
            errors[f"{name}.norm"] = _fit_norm(level.norm, x, z, len(used))
        x = [level.norm(h, latent) for h, latent in zip(x, z, strict=True)]
        for block in cast(list[ResidualBlock], level.blocks):
            if isinstance(block.shortcut, nn.Conv2d):
                width, one = block.shortcut.out_channels, None if norm_input is None else norm_input.one
                if index == 0:
                    norm_input, targets = _pixels(pyramid, width, None if one is None else decoder.groups)
                else:
                    targets = [h[:, used[:width].to(h.device)] for h in x]
                errors[f"{name}.shortcut"] = fit_convolution(block.shortcut, x, targets, used)
                used = torch.arange(targets[0].shape[1])
                if index == 0 and norm_input is not None:
                    norm_input.expand(block.shortcut, one)
            elif index == 0 and norm_input is not None:
                norm_input.undo(block.norm1)
            x = [_pass(block, h) for h in x]
        if isinstance(level.upsample, DepthToSpace):
            stride //= 2
            following = cast(ResidualBlock, cast(UpBlock, decoder.levels[index - 1]).blocks[0])
            width = following.conv1.in_channels
            if index > 1 or isinstance(following.shortcut, nn.Conv2d):
                targets = _images(_components(pyramid, stride, width))
                norm_input, targets = _before_norm(targets, width, decoder.groups)
            else:
                norm_input, targets = _pixels(pyramid, width, decoder.groups)
            errors[f"{name}.upsample"] = _fit_depth_to_space(level.upsample.conv, x, targets, used)
            used = torch.arange(targets[0].shape[1])
            if norm_input is not None:
                norm_input.expand(level.upsample.conv)
            x = [level.upsample(h) for h in x]
    if norm_input is not None:
        norm_input.undo(decoder.norm_out)
        used = norm_input.signed
    x = [F.silu(decoder.norm_out(h)) for h in x]
    errors["conv_out"] = fit_convolution(decoder.conv_out, x, [video_to_images(b) for b in pyramid.batches], used)
    return errors


def _zero_branch(block: ResidualBlock) -> None:
    """Set the residual branch of a block to zero."""
    block.conv2.weight.zero_()
    if isinstance(block.norm2, nn.GroupNorm):
        block.norm2.weight.fill_(_BRANCH_SCALE)


def _convolution(layer: nn.Module) -> nn.Conv2d | None:
    """Return the convolution through which the trunk passes a layer; None if it passes unchanged."""
    layer = layer.shortcut if isinstance(layer, ResidualBlock) else layer
    return layer if isinstance(layer, nn.Conv2d) else None


def _fit_hidden_units(
    conv: nn.Conv2d, x: list[Tensor], pyramid: Pyramid, units: Tensor, count: int, stride: int, used: int
) -> tuple[float, int]:
    """Fit the last layer of the trunk to the hidden units of a code, and return the error and the number of units.

    The coefficients are fitted, and the units are computed from their weights and an exact constant. If each unit were
    fitted, bits that change together would change one after the other.
    """
    units = units[: conv.out_channels]
    coefficients = _images(pyramid.coefficients((1, stride, stride), count))
    if count + 1 > conv.out_channels:
        targets = [apply_affine(torch.cat([units[:, :count], units[:, -1:]], dim=1), c) for c in coefficients]
        return fit_convolution(conv, x, targets, used), len(units)
    error = fit_convolution(conv, x, _with_constant(coefficients), used)
    if conv.bias is None:  # the first input channel is the constant, which the ridge penalty would shrink
        conv.weight[0] = 0.0
        center_weights(conv)[0, 0] = 1.0
    rows = torch.cat([units[:, -1:], units[:, :count]], dim=1).to(conv.weight)  # the constant comes first
    conv.weight[: len(units)] = torch.einsum("uk, kc... -> uc...", rows, conv.weight[: count + 1].clone())
    if conv.bias is not None:
        conv.bias[: len(units)] = rows @ conv.bias[: count + 1].clone()
    return error, len(units)


def _pass_channels(conv: nn.Conv2d, count: int) -> None:
    """Make the first channels of the output those of the input. Weights of other channels are kept."""
    conv.weight[:count] = 0.0
    index = torch.arange(count, device=conv.weight.device)
    center_weights(conv)[index, index] = 1.0
    if conv.bias is not None:
        conv.bias[:count] = 0.0


def _set_convolution(conv: nn.Conv2d, weights: Tensor) -> None:
    """Set the center of a convolution to weights and biases (O, F + 1), and all other weights to zero."""
    conv.weight.zero_()
    center_weights(conv)[:, : weights.shape[1] - 1] = weights[:, :-1].to(conv.weight)
    assert conv.bias is not None
    conv.bias.copy_(weights[:, -1])


def _pass(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the output of a layer whose residual branch is zero, without computing the branch."""
    return layer.shortcut(x) if isinstance(layer, ResidualBlock) else layer(x)


def _fit_norm(norm: AdaptiveGroupNorm, x: list[Tensor], z: list[Tensor], used: int) -> float:
    """Set scale and shift of a norm to undo its normalization as well as the latent's statistics tell how."""
    scale = NormalEquations(z[0].shape[1], used, z[0].device)
    shift = NormalEquations(z[0].shape[1], used, z[0].device)
    groups = norm.groups or 1
    for h, latent in zip(x, z, strict=True):
        per_group = h.unflatten(1, (groups, -1)).flatten(2)
        repeats = h.shape[1] // groups
        positions = latent.flatten(2)
        std = (per_group.var(-1, unbiased=False) + EPS).sqrt().repeat_interleave(repeats, 1)
        scale.add((positions.var(-1) + EPS).sqrt(), std[:, :used])
        shift.add(positions.mean(-1), per_group.mean(-1).repeat_interleave(repeats, 1)[:, :used])
    unexplained = []
    for layer, equations in ((norm.gamma, scale), (norm.beta, shift)):
        weight, bias, error = equations.solve(ridge=_NORM_RIDGE)
        layer.weight[:used], layer.bias[:used] = weight.to(layer.weight), bias.to(layer.bias)
        unexplained.append(error)
    return max(unexplained)


def _fit_depth_to_space(conv: nn.Conv2d, x: list[Tensor], targets: list[Tensor], used: Tensor) -> float:
    """Fit a convolution before depth-to-space to targets at twice its resolution."""
    count, width = targets[0].shape[1], conv.out_channels // 4
    parts = [torch.cat([t[:, :, r::2, c::2] for r in range(2) for c in range(2)], dim=1) for t in targets]
    rows = torch.cat([torch.arange(count) + block * width for block in range(4)]).to(conv.weight.device)
    return fit_convolution(conv, x, parts, used, rows)


def _components(pyramid: Pyramid, stride: int, width: int) -> list[Tensor]:
    """Return the components that a layer of a width carries at a stride: (B, K, T, h, w) of each batch."""
    return pyramid.targets((1, stride, stride), limit_components(3 * stride**2, width))


def _pixels(pyramid: Pyramid, width: int, groups: int | None) -> tuple[NormInput | None, list[Tensor]]:
    """Return what the last layers carry: pixels and their negatives, or pixels alone if there is no room.

    See `_before_norm` for the arguments and the result.
    """
    pixels = [video_to_images(batch) for batch in pyramid.batches]
    norm_input, targets = _before_norm(pixels, width, groups)
    return norm_input, [signed_pair(x, width) for x in pixels] if norm_input is None else targets


def _before_norm(components: list[Tensor], width: int, groups: int | None) -> tuple[NormInput | None, list[Tensor]]:
    """Return what a layer of a width carries before the next norm of the trunk.

    Args:
        components: (B, K, H, W) of each batch.
        width: number of channels.
        groups: groups of the norm; None: there is none.

    Returns:
        How the norm is undone, None if there is no norm or no room to prepare for it; and the components that the layer
        carries. If the norm is undone, `NormInput.expand` adds the other channels to a fitted layer.
    """
    layout = group_norm_layout(width, groups, components[0].shape[1])
    if layout is None:
        return None, components
    components = [batch[:, : layout.matrix.shape[1]] for batch in components]
    return NormInput(layout, components), components


def _first_norms(blocks: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the first norms of residual blocks, which read the trunk."""
    return [block.norm1 for block in blocks if isinstance(block, ResidualBlock)]


def _with_constant(targets: list[Tensor]) -> list[Tensor]:
    """Prepend a channel of ones, which later layers without bias need."""
    return [torch.cat([torch.ones_like(t[:, :1]), t], dim=1) for t in targets]


def _images(targets: list[Tensor]) -> list[Tensor]:
    return [video_to_images(target) for target in targets]
