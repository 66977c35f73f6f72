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
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import (
    CODE_RIDGE,
    Errors,
    apply_affine,
    center_weights,
    code_targets,
    frame_images,
    limit_components,
    signed_pair,
)
from smalti.tokenizers.linear_start.group_norm_layout import BRANCH_SCALE, GroupNormInput, before_norm
from smalti.tokenizers.linear_start.least_squares import NormalEquations, fit_convolution
from smalti.tokenizers.linear_start.level_table import LevelTable
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.models.wetok.blocks import DepthToSpace, ResidualBlock
from smalti.tokenizers.models.wetok.decoder import UpBlock, WeTokDecoder
from smalti.tokenizers.models.wetok.encoder import DownBlock, WeTokEncoder
from smalti.tokenizers.models.wetok.norms import EPS, AdaptiveGroupNorm

if TYPE_CHECKING:
    from smalti.tokenizers.models.uniwetok.encoder import UniWeTokEncoder

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
    count, hidden = undo_norms(encoder, layers, pyramid, code.count) or (code.count, code.hidden)
    x, used, errors = fit_trunk(layers, pyramid, count, hidden)
    x = [F.silu(encoder.norm_out(h)) for h in x]
    if code.output is not None and len(code.hidden) <= encoder.hidden_units:
        _set_convolution(encoder.conv_out, code.output)
    else:
        targets = code_targets(code, frame_images(pyramid.coefficients(encoder.stride, code.count)))
        errors["conv_out"] = fit_convolution(encoder.conv_out, x, targets, used, ridge=CODE_RIDGE)
    return errors


def undo_norms(
    encoder: WeTokEncoder | UniWeTokEncoder, layers: Sequence[tuple[str, nn.Module]], pyramid: Pyramid, count: int
) -> tuple[int, Tensor] | None:
    """Set the norms after the last convolution of the trunk so that coefficients pass them unchanged.

    Args:
        encoder: changed in place.
        layers: its layers up to the last norm, with their names.
        pyramid: the data.
        count: number of coefficients of the code.

    Returns:
        The number of coefficients K for which there is room, and the (C, K + 1) affine functions of them that the last
        convolution must compute, see `fit_trunk`. None if there is no norm, or no room.
    """
    if encoder.groups is None:
        return None
    coefficients = frame_images(pyramid.coefficients(encoder.stride, count))
    norm_input, coefficients = before_norm(coefficients, encoder.conv_out.in_channels, encoder.groups)
    if norm_input is None:
        return None
    last = _last_convolution(layers)
    for norm in [*_first_norms(layer for _, layer in layers[last + 1 :]), encoder.norm_out]:
        norm_input.undo(norm)
    return coefficients[0].shape[1], norm_input.affine


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
    last = _last_convolution(layers)
    x = frame_images(pyramid.batches)
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
                targets = frame_images(_with_constant(_components(pyramid, stride, conv.out_channels - 1)))
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
    return _DecoderFit(decoder, pyramid, latents).run(code)


class _DecoderFit:
    """The fit of a decoder, layer by layer.

    Args:
        decoder: changed in place.
        pyramid: the data.
        latents: codewords (B, Z, T, h, w) of each batch.
    """

    def __init__(self, decoder: WeTokDecoder, pyramid: Pyramid, latents: Sequence[Tensor]) -> None:
        self._decoder = decoder
        self._pyramid = pyramid
        self._z = frame_images(latents)
        self._errors: Errors = {}
        self._x: list[Tensor] = []
        """Outputs (B, C, H, W) of the layers so far, per batch."""
        self._used = torch.arange(0)
        """Indices of the channels of x that the next layer reads. The others repeat them, or are random."""
        self._norm_input: GroupNormInput | None = None
        """How the next norm of the trunk is undone."""

    def run(self, code: StartCode) -> Errors:
        """Fit all layers, and return their errors."""
        decoder = self._decoder
        for module in decoder.modules():
            if isinstance(module, ResidualBlock):
                _zero_branch(module)
        self._fit_conv_in(code)
        for index in reversed(range(len(decoder.levels))):
            self._fit_level(index, cast(UpBlock, decoder.levels[index]))
        if self._norm_input is not None:
            self._norm_input.undo(decoder.norm_out)
            self._used = self._norm_input.signed
        x = [F.silu(decoder.norm_out(h)) for h in self._x]
        pixels = frame_images(self._pyramid.batches)
        self._errors["conv_out"] = fit_convolution(decoder.conv_out, x, pixels, self._used)
        return self._errors

    def _fit_conv_in(self, code: StartCode) -> None:
        """Fit the first convolution, and the table of levels if the code has one."""
        decoder, conv = self._decoder, self._decoder.conv_in
        noise = [h.new_zeros(len(h), conv.in_channels - h.shape[1], *h.shape[2:]) for h in self._z]
        x = [torch.cat(pair, dim=1) for pair in zip(self._z, noise, strict=True)]
        width = conv.out_channels
        levels = None
        if code.readout is not None and decoder.groups is None and isinstance(decoder.middle[0], ResidualBlock):
            levels = LevelTable(code.readout, width)
            width -= levels.channels
        targets = self._choose_components(2 ** (len(decoder.levels) - 1), width)
        if levels is None:
            self._errors["conv_in"] = fit_convolution(conv, x, targets, decoder.in_dim)
        else:
            self._errors["conv_in"] = levels.fit(conv, decoder.middle[0], x, targets)
        if self._norm_input is not None:
            self._norm_input.expand(conv)
            for norm in _first_norms(decoder.middle):
                self._norm_input.undo(norm)
        self._x = [decoder.middle(conv(h)) for h in x]

    def _fit_level(self, index: int, level: UpBlock) -> None:
        """Fit the norm, the shortcuts and the upsampling of a level. The last level has the index 0."""
        name, blocks = f"levels.{index}", cast(list[ResidualBlock], level.blocks)
        if self._norm_input is not None:
            # The constants are needed again only if no convolution comes before the last norm of the decoder.
            kept = index == 0 and isinstance(blocks[0].shortcut, nn.Identity)
            _undo_adaptive(level.norm, self._norm_input.scale(self._norm_input.constant if kept else 1.0))
            self._used = self._norm_input.positive
        elif level.norm.groups is not None:
            self._errors[f"{name}.norm"] = _fit_norm(level.norm, self._x, self._z, len(self._used))
        self._x = [level.norm(h, latent) for h, latent in zip(self._x, self._z, strict=True)]
        for block in blocks:
            if isinstance(block.shortcut, nn.Conv2d):
                self._errors[f"{name}.shortcut"] = self._fit_shortcut(block.shortcut, last=index == 0)
            elif index == 0 and self._norm_input is not None:
                self._norm_input.undo(block.norm1)
            self._x = [_pass(block, h) for h in self._x]
        if isinstance(level.upsample, DepthToSpace):
            self._errors[f"{name}.upsample"] = self._fit_upsample(level.upsample, index - 1)

    def _fit_shortcut(self, conv: nn.Conv2d, *, last: bool) -> float:
        """Fit a shortcut to what its input has, or to pixels in the last level, where a norm follows."""
        x, used, before = self._x, self._used, self._norm_input
        if last:
            targets = self._choose_pixels(conv.out_channels, constants=before is not None)
        else:
            kept = used[: conv.out_channels].to(x[0].device)
            targets = [h[:, kept] for h in x]
            self._used = torch.arange(len(kept))
        error = fit_convolution(conv, x, targets, used)
        if last and self._norm_input is not None and before is not None:
            self._norm_input.expand(conv, before.one)
        return error

    def _fit_upsample(self, layer: DepthToSpace, following: int) -> float:
        """Fit the convolution before depth-to-space to components at its output, before the level `following`."""
        x, used = self._x, self._used
        block = cast(ResidualBlock, cast(UpBlock, self._decoder.levels[following]).blocks[0])
        if following > 0 or isinstance(block.shortcut, nn.Conv2d):
            targets = self._choose_components(2**following, block.conv1.in_channels)
        else:
            targets = self._choose_pixels(block.conv1.in_channels)
        error = _fit_depth_to_space(layer.conv, x, targets, used)
        if self._norm_input is not None:
            self._norm_input.expand(layer.conv)
        self._x = [layer(h) for h in x]
        return error

    def _choose_components(self, stride: int, width: int) -> list[Tensor]:
        """Decide what the next layer carries: components of patches. Returns (B, K, H, W) per batch."""
        components = frame_images(_components(self._pyramid, stride, width))
        self._norm_input, targets = before_norm(components, width, self._decoder.groups)
        self._used = torch.arange(targets[0].shape[1])
        return targets

    def _choose_pixels(self, width: int, *, constants: bool = True) -> list[Tensor]:
        """Decide what the last layers carry: pixels, and their negatives if there is room.

        Args:
            width: number of channels.
            constants: whether the layer that computes them can compute constants.
        """
        pixels = frame_images(self._pyramid.batches)
        self._norm_input, targets = before_norm(pixels, width, self._decoder.groups if constants else None)
        if self._norm_input is None:
            targets = [signed_pair(x, width) for x in pixels]
        self._used = torch.arange(targets[0].shape[1])
        return targets


def _undo_adaptive(norm: AdaptiveGroupNorm, scale: Tensor) -> None:
    """Give a norm a fixed scale, and no shift."""
    for parameter in (norm.gamma.weight, norm.beta.weight, norm.beta.bias):
        parameter.zero_()
    norm.gamma.bias.copy_(scale)


def _zero_branch(block: ResidualBlock) -> None:
    """Set the residual branch of a block to zero."""
    block.conv2.weight.zero_()
    if isinstance(block.norm2, nn.GroupNorm):
        block.norm2.weight.fill_(BRANCH_SCALE)


def _convolution(layer: nn.Module) -> nn.Conv2d | None:
    """Return the convolution through which the trunk passes a layer; None if it passes unchanged."""
    layer = layer.shortcut if isinstance(layer, ResidualBlock) else layer
    return layer if isinstance(layer, nn.Conv2d) else None


def _last_convolution(layers: Sequence[tuple[str, nn.Module]]) -> int:
    """Return the index of the last layer that is, or has in its shortcut, a convolution."""
    return max(i for i, (_, layer) in enumerate(layers) if _convolution(layer) is not None)


def _fit_hidden_units(
    conv: nn.Conv2d, x: list[Tensor], pyramid: Pyramid, units: Tensor, count: int, stride: int, used: int
) -> tuple[float, int]:
    """Fit the last layer of the trunk to the hidden units of a code, and return the error and the number of units.

    The coefficients are fitted, and the units are computed from their weights and an exact constant. If each unit were
    fitted, bits that change together would change one after the other.
    """
    units = units[: conv.out_channels]
    coefficients = frame_images(pyramid.coefficients((1, stride, stride), count))
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


def _first_norms(blocks: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the first norms of residual blocks, which read the trunk."""
    return [block.norm1 for block in blocks if isinstance(block, ResidualBlock)]


def _with_constant(targets: list[Tensor]) -> list[Tensor]:
    """Prepend a channel of ones, which later layers without bias need."""
    return [torch.cat([torch.ones_like(t[:, :1]), t], dim=1) for t in targets]
