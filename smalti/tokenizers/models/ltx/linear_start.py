"""Starting LTX-Video's networks as a linear codec.

Residual branches are zero, and the layers between them carry principal components of ever larger patches: a strided
convolution can combine eight positions, and a convolution before depth-to-space can separate them. Each layer is fitted by
least squares to the inputs that the layers before it give.

Pixel norm and layer norm divide each position by the magnitude of its channels. The channels therefore carry the components
beside larger constants (`OffsetLayout`), so that the norms, and SiLU after them, are nearly linear. Downsampling with
space-to-depth has too few weights for arbitrary components: it gets the filters that explain most variance
(`choose_filters`), and the error of the encoder's last layer says what is missing. The decoder reads every code by a linear
map.

Shapes: B batch; C channels; T frames, H, W positions; Z channels and t, h, w positions of the latent; K components.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smalti.distributed import sum_over_ranks
from smalti.tokenizers.base import StreamState
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import Errors, code_targets
from smalti.tokenizers.linear_start.least_squares import fit_convolution
from smalti.tokenizers.linear_start.offsets import (
    SIGNAL,
    OffsetLayout,
    layer_norm_layout,
    pixel_norm_layout,
    root_mean_square,
)
from smalti.tokenizers.linear_start.patches import Stride, divide_strides, multiply_strides
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.linear_start.sub_kernels import Taps, fit_part
from smalti.tokenizers.models.ltx.block_context import BlockContext
from smalti.tokenizers.models.ltx.blocks import PixelNormBlock, ResidualStage
from smalti.tokenizers.models.ltx.decoder import LTXDecoder
from smalti.tokenizers.models.ltx.encoder import LTXEncoder
from smalti.tokenizers.models.ltx.pixel_norm import norm_and_activate
from smalti.tokenizers.models.ltx.replication_pad_conv import ReplicationPadConv3d
from smalti.tokenizers.models.ltx.resampling import DepthToSpaceUpsample, SpaceToDepthDownsample, StridedDownsample
from smalti.tokenizers.models.ltx.space_to_depth import patchify, space_to_depth
from smalti.tokenizers.models.ltx.space_to_depth_start import choose_filters

_POSITIONS_PER_FEATURE = 32
"""Kernels of the decoder see neighbors if there are this many positions per feature of the regression."""

_MAX_FEATURES = 2048
"""Maximum number of features of the regressions of kernels that see neighbors, because time grows with its square."""


@torch.no_grad()
def fit_encoder(encoder: LTXEncoder, pyramid: Pyramid, code: StartCode) -> Errors:
    """Set the weights of an encoder so that it computes a code of principal components.

    Args:
        encoder: changed in place; on the device of the data, in evaluation mode.
        pyramid: the data.
        code: what the bottleneck expects.

    Returns:
        The share of the variance of its targets that each fitted layer does not explain.
    """
    errors: Errors = {}
    _zero_residual_branches(encoder)
    layers = _trunk(encoder)
    stride = (1, encoder.patch, encoder.patch)
    used = 3 * math.prod(stride)
    x = [patchify(batch, encoder.patch) for batch in pyramid.batches]
    for i, (name, layer) in enumerate(layers):
        stride = multiply_strides(stride, _stride(layer))
        if isinstance(layer, SpaceToDepthDownsample):
            errors[name] = _fit_space_to_depth(layer, x, pyramid, stride, code.count, last=i == len(layers) - 1)
        else:
            width = _width(layer)
            if i == len(layers) - 1:
                coefficients = pyramid.coefficients(stride, code.count)
                targets = pixel_norm_layout(width, code.count).combine(coefficients)
            elif isinstance(layers[i + 1][1], SpaceToDepthDownsample) and i == 0:
                targets = _ordered_components(pyramid, stride, width)
            else:
                used = used if isinstance(layer, PixelNormBlock) else 3 * math.prod(stride)
                used = min(used, _layout(width, used, last=False).count)
                targets = _components(pyramid, stride, width, used, last=False)
            errors[name] = _fit_downsampling(layer, x, targets)
        x = _run(layer, x)
    x = [norm_and_activate(h) for h in x]
    targets = code_targets(code, pyramid.coefficients(encoder.stride, code.count))
    errors["conv_out"] = _fit_current(encoder.conv_out, x, targets)
    return errors


@torch.no_grad()
def fit_decoder(decoder: LTXDecoder, pyramid: Pyramid, latents: Sequence[Tensor]) -> Errors:
    """Set the weights of a decoder so that it reconstructs the pixels from codewords as well as a linear map can.

    A decoder with noise gets the noise that it has in evaluation mode.

    Args:
        decoder: changed in place; on the device of the data, in evaluation mode.
        pyramid: the data.
        latents: codewords (B, Z, t, h, w) of each batch.

    Returns:
        The share of the variance of its targets that each fitted layer does not explain.
    """
    errors: Errors = {}
    _zero_residual_branches(decoder)
    layers = _trunk(decoder)
    generator = torch.Generator().manual_seed(0)
    prepared = [decoder.prepare(z, generator, StreamState(last=True)) for z in latents]
    contexts = [context for _, context in prepared]
    stride = (1, decoder.patch, decoder.patch)
    for _, layer in layers:
        stride = multiply_strides(stride, _stride(layer))
    x = [z for z, _ in prepared]
    targets = _components(pyramid, stride, _width(decoder.conv_in), decoder.in_dim, last=len(layers) == 1)
    errors["conv_in"] = _fit_current(decoder.conv_in, x, targets)
    x = _run(decoder.conv_in, x)
    for i, (name, layer) in enumerate(layers[1:], start=1):
        stride = divide_strides(stride, _stride(layer))
        targets = _components(pyramid, stride, _width(layer), 3 * math.prod(stride), last=i == len(layers) - 1)
        if isinstance(layer, DepthToSpaceUpsample):
            errors[name] = _fit_depth_to_space(layer, x, targets)
        else:
            errors[name] = _fit_downsampling(layer, x, targets)
        x = _run(layer, x, contexts)
    x = [decoder.activate(h, context) for h, context in zip(x, contexts, strict=True)]
    errors["conv_out"] = _fit_neighbors(decoder.conv_out, x, [patchify(b, decoder.patch) for b in pyramid.batches])
    return errors


def _zero_residual_branches(network: nn.Module) -> None:
    for block in network.modules():
        if isinstance(block, PixelNormBlock):
            for parameter in block.conv2.parameters():
                parameter.zero_()


def _trunk(network: LTXEncoder | LTXDecoder) -> list[tuple[str, nn.Module]]:
    """Return the layers that features cannot bypass, with their names, except the last convolution."""
    layers: list[tuple[str, nn.Module]] = [("conv_in", network.conv_in)]
    for i, block in enumerate(network.blocks):
        if isinstance(block, PixelNormBlock):
            if block.shortcut is not None:
                layers.append((f"blocks.{i}.shortcut", block))
        elif not isinstance(block, ResidualStage):
            layers.append((f"blocks.{i}", block))
    return layers


def _stride(layer: nn.Module) -> Stride:
    if isinstance(layer, StridedDownsample):
        t, h, w = layer.strided.conv.stride
        return t, h, w
    return layer.stride if isinstance(layer, SpaceToDepthDownsample | DepthToSpaceUpsample) else (1, 1, 1)


def _width(layer: nn.Module) -> int:
    """Return the number of output channels."""
    if isinstance(layer, ReplicationPadConv3d):
        return layer.conv.out_channels
    if isinstance(layer, StridedDownsample):
        return layer.strided.conv.out_channels
    if isinstance(layer, DepthToSpaceUpsample):
        return layer.conv.conv.out_channels // math.prod(layer.stride)
    assert isinstance(layer, PixelNormBlock)
    return layer.conv2.conv.out_channels


def _run(layer: nn.Module, x: list[Tensor], contexts: list[BlockContext] | None = None) -> list[Tensor]:
    """Apply a layer of the trunk to whole clips."""
    contexts = [BlockContext(StreamState(last=True))] * len(x) if contexts is None else contexts
    if isinstance(layer, ReplicationPadConv3d):
        return [layer(h, StreamState(last=True)) for h in x]
    return [
        layer(h, dataclasses.replace(context, state=StreamState(last=True)))
        for h, context in zip(x, contexts, strict=True)
    ]


def _components(pyramid: Pyramid, stride: Stride, width: int, count: int, *, last: bool) -> list[Tensor]:
    """Return what a layer carries at a stride, (B, width, t, h, w) of each batch.

    Args:
        pyramid: the data.
        stride: size of the patches.
        width: number of channels.
        count: number of components, as far as there is room.
        last: whether pixel norm follows; otherwise, a layer norm may follow.
    """
    layout = _layout(width, count, last=last)
    return layout.combine(pyramid.targets(stride, layout.count))


def _layout(width: int, count: int, *, last: bool) -> OffsetLayout:
    return pixel_norm_layout(width, count) if last else layer_norm_layout(width, count)


def _ordered_components(pyramid: Pyramid, stride: Stride, width: int) -> list[Tensor]:
    """Return one component per channel, by decreasing variance, for blocks whose output depends on the order."""
    targets = pyramid.targets(stride, min(width, 3 * math.prod(stride)))
    return [torch.cat([t, t.new_zeros(len(t), width - t.shape[1], *t.shape[2:])], dim=1) for t in targets]


def _fit_downsampling(layer: nn.Module, x: list[Tensor], targets: list[Tensor]) -> float:
    """Fit a layer that keeps or reduces the resolution, from the positions that its patch consists of."""
    if isinstance(layer, PixelNormBlock):
        assert layer.shortcut is not None
        assert layer.shortcut_norm is not None
        norm = layer.shortcut_norm
        return fit_convolution(layer.shortcut, [norm(h.movedim(1, -1)).movedim(-1, 1) for h in x], targets)
    if isinstance(layer, StridedDownsample):
        conv = layer.strided.conv
        time, height, width = (2 if size == 2 else 1 for size in conv.stride)
        block = (slice(3 - time, 3), slice(1, 1 + height), slice(1, 1 + width))
        x = [torch.cat([h[:, :, :1], h], dim=2) if conv.stride[0] == 2 else h for h in x]
        return fit_part(conv, block, x, targets)
    assert isinstance(layer, ReplicationPadConv3d)
    return _fit_current(layer, x, targets)


def _fit_space_to_depth(
    layer: SpaceToDepthDownsample, x: list[Tensor], pyramid: Pyramid, stride: Stride, count: int, *, last: bool
) -> float:
    """Choose the filters of a block with space-to-depth, and constants beside which its output is small."""
    count = min(max(count, layer.out_channels), 3 * math.prod(stride))
    std = pyramid.components(stride, count).variances[:count].sqrt()
    targets = [c * std[:, None, None, None] for c in pyramid.coefficients(stride, count)]
    inputs = [torch.cat([h[:, :, :1], h], dim=2) for h in x] if layer.stride[0] == 2 else x
    weights, error = choose_filters(layer, inputs, targets)
    conv = layer.conv.conv
    assert conv.bias is not None
    conv.weight.zero_()
    conv.weight[:, :, -1, 1, 1] = weights.to(conv.weight)
    conv.bias.zero_()
    outputs = _run(layer, x)
    number = sum_over_ranks(
        torch.tensor(float(sum(h.numel() // h.shape[1] for h in outputs)), device=conv.weight.device)
    )
    mean = sum_over_ranks(torch.stack([h.double().sum((0, 2, 3, 4)) for h in outputs]).sum(0)) / number
    mean = mean.to(conv.bias)
    signal = root_mean_square([h - mean[:, None, None, None] for h in outputs])
    offset = (torch.ones(conv.out_channels) if last else layer_norm_layout(conv.out_channels, 0).offset).to(conv.bias)
    conv.bias.copy_(offset * signal / SIGNAL - mean.unflatten(0, (conv.out_channels, -1)).mean(1))
    return error


def _fit_depth_to_space(layer: DepthToSpaceUpsample, x: list[Tensor], targets: list[Tensor]) -> float:
    """Fit a convolution before depth-to-space so that it and the residual connection give targets at a finer resolution."""
    if layer.stride[0] == 2:  # the first frame of the first block is dropped: any target will do
        targets = [torch.cat([t[:, :, :1], t], dim=2) for t in targets]
    parts = [space_to_depth(t, layer.stride) for t in targets]
    if layer.repeats:
        parts = [part - h.repeat(1, layer.repeats, 1, 1, 1) for part, h in zip(parts, x, strict=True)]
    return _fit_neighbors(layer.conv, x, parts)


def _fit_current(layer: ReplicationPadConv3d, x: list[Tensor], targets: list[Tensor]) -> float:
    """Fit the weights at the current position."""
    return fit_part(layer.conv, _current(layer), x, targets)


def _fit_neighbors(layer: ReplicationPadConv3d, x: list[Tensor], targets: list[Tensor]) -> float:
    """Fit as much of the kernel as the amount of data allows: all of it, the current frame, or the current position."""
    device = layer.conv.weight.device
    positions = float(sum_over_ranks(torch.tensor(float(sum(t.numel() // t.shape[1] for t in targets)), device=device)))
    limit = min(_MAX_FEATURES, positions / _POSITIONS_PER_FEATURE)
    time, _, _ = _current(layer)
    everything = slice(None)
    if 27 * layer.conv.in_channels <= limit:
        taps: Taps = (everything, everything, everything)
        x = [layer.pad_time(h, StreamState(last=True)) for h in x]
    elif 9 * layer.conv.in_channels <= limit:
        taps = (time, everything, everything)
    else:
        return _fit_current(layer, x, targets)
    mode = "constant" if layer.conv.padding_mode == "zeros" else layer.conv.padding_mode
    x = [nn.functional.pad(h, (1, 1, 1, 1, 0, 0), mode=mode) for h in x]
    return fit_part(layer.conv, taps, x, targets)


def _current(layer: ReplicationPadConv3d) -> Taps:
    """Return the place of the current position in a kernel."""
    frame = 2 if layer.causal else 1
    return slice(frame, frame + 1), slice(1, 2), slice(1, 2)
