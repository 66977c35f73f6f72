"""Starting Cosmos' networks as a linear codec.

Residual branches and attention are zero. What remains are the first and last convolutions, the shortcuts between levels of
different width, and the layers that change the resolution. Each is fitted by least squares to principal components of
patches, on the inputs that the layers before it give. Where a layer adds a convolution to a mean or to repeated values, the
convolution is fitted to the difference.

Downsampling is exact. Upsampling is the best fit: a convolution of repeated values distinguishes their positions only by
their neighbors. Group norms are undone if they have room for constants (`GroupNormLayout`).

Shapes: B images (the frames of all clips), or clips in networks for clips; C channels; K components; Z channels of the
latent; the other axes are positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import StreamState
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import CODE_RIDGE, Errors, code_targets, frame_images, limit_components
from smalti.tokenizers.linear_start.group_norm_layout import BRANCH_SCALE, before_norm
from smalti.tokenizers.linear_start.least_squares import fit_convolution, fit_noisy
from smalti.tokenizers.linear_start.patches import Stride, divide_strides, multiply_strides
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.linear_start.sub_kernels import fit_part
from smalti.tokenizers.models.cosmos.blocks import Level, MiddleBlocks, ResidualBlock
from smalti.tokenizers.models.cosmos.decoder import CosmosDecoder
from smalti.tokenizers.models.cosmos.encoder import CosmosEncoder
from smalti.tokenizers.models.cosmos.haar import clip_patches, image_patches
from smalti.tokenizers.models.cosmos.layers import FactorizedConv, ImageConv
from smalti.tokenizers.models.cosmos.resampling import ClipDownsample, ClipUpsample, ImageDownsample, ImageUpsample

_Conv = ImageConv | FactorizedConv
_Layers = list[tuple[str, nn.Module]]


@torch.no_grad()
def fit_encoder(encoder: CosmosEncoder, pyramid: Pyramid, code: StartCode) -> Errors:
    """Set the weights of an encoder so that it computes a code of principal components.

    Args:
        encoder: changed in place; on the device of the data, in evaluation mode.
        pyramid: the data.
        code: what the bottleneck expects.

    Returns:
        The share of the variance of its targets that each fitted layer does not explain.
    """
    fit = _TrunkFit(encoder, pyramid)
    layers = [("conv_in", encoder.conv_in), *_level_layers(encoder), *_middle_layers(encoder.middle)]
    x, used = fit.run(layers, fit.patches(), None, _patch_stride(encoder))
    count = min(code.count, encoder.head.in_channels)
    coefficients = fit.flatten(pyramid.coefficients(encoder.stride, code.count))
    part = _spatial_part(encoder.conv_out)
    center = (slice(None), slice(1, 2), slice(1, 2)) if encoder.video else (slice(1, 2), slice(1, 2))
    fit.errors["conv_out"] = fit_part(part, center, x, [c[:, :count] for c in coefficients], used, CODE_RIDGE)
    x = [encoder.conv_out(h, _whole()) for h in x]
    fit.errors["head"] = fit_convolution(encoder.head, x, code_targets(code, coefficients), count, ridge=CODE_RIDGE)
    return fit.errors


@torch.no_grad()
def fit_decoder(decoder: CosmosDecoder, pyramid: Pyramid, code: StartCode, latents: Sequence[Tensor]) -> Errors:
    """Set the weights of a decoder so that it reconstructs the pixels from codewords as well as its layers can.

    Args:
        decoder: changed in place; on the device of the data, in evaluation mode.
        pyramid: the data.
        code: what the bottleneck codes.
        latents: codewords (B, Z, t, h, w) of each batch.

    Returns:
        The share of the variance of its targets that each fitted layer does not explain.
    """
    fit = _TrunkFit(decoder, pyramid)
    layers = [("conv_in", decoder.conv_in), *_middle_layers(decoder.middle), *_level_layers(decoder)]
    stride = _patch_stride(decoder)
    for _, layer in layers:
        stride = multiply_strides(stride, _factors(layer))
    z = fit.flatten(latents)
    count = min(code.count, decoder.head.out_channels)
    fit.errors["head"] = fit_convolution(decoder.head, z, fit.flatten(pyramid.coefficients(stride, count)))
    x, used = fit.run(layers, [decoder.head(h) for h in z], torch.arange(count), stride)
    fit.errors["conv_out"] = fit_noisy(_spatial_part(decoder.conv_out), x, fit.patches(), used)
    return fit.errors


class _TrunkFit:
    """The fit of the layers between the head and the last convolution of a network.

    Args:
        network: changed in place.
        pyramid: the data.
    """

    def __init__(self, network: CosmosEncoder | CosmosDecoder, pyramid: Pyramid) -> None:
        self._network = network
        self._pyramid = pyramid
        self.errors: Errors = {}

    def flatten(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """Return clips as the network processes them: (B, C, T, H, W), or the images (B T, C, H, W) of its frames."""
        return list(batches) if self._network.video else frame_images(batches)

    def patches(self) -> list[Tensor]:
        """Return the Haar wavelets of the pixels of each batch."""
        patch = self._network.patch
        if not self._network.video:
            return [image_patches(images, patch) for images in self.flatten(self._pyramid.batches)]
        return [clip_patches(self._network, clips, patch, _whole()) for clips in self._pyramid.batches]

    def run(self, layers: _Layers, x: list[Tensor], used: Tensor | None, stride: Stride) -> tuple[list[Tensor], Tensor]:
        """Fit the layers in their order.

        Args:
            layers: convolutions, residual blocks and resampling layers, with their names.
            x: inputs of the first layer, per batch.
            used: indices of its channels that the first layer reads; None: all.
            stride: frames, height and width in pixels of a position of x.

        Returns:
            The outputs after the last norm and SiLU, and the indices of the channels that the next layer reads.
        """
        norm_out, norm_input = self._network.norm_out, None
        last = max(i for i, (_, layer) in enumerate(layers) if _output_conv(layer) is not None)
        for i, (name, layer) in enumerate(layers):
            if isinstance(layer, ResidualBlock):
                _zero_branch(layer)
            conv = _output_conv(layer)
            if conv is None:
                if i > last and norm_input is not None and isinstance(layer, ResidualBlock):
                    norm_input.undo(layer.norm1)
                continue
            before, stride = stride, _change(stride, layer)
            targets = self._components(stride, conv.out_channels)
            norm_input, targets = before_norm(targets, conv.out_channels, norm_out.num_groups if i == last else None)
            if isinstance(layer, ImageConv | FactorizedConv):
                self.errors[name] = fit_noisy(_spatial_part(layer), x, targets, used)
            elif isinstance(layer, ResidualBlock):
                self.errors[name] = fit_convolution(conv, x, targets, used)
            elif isinstance(layer, ImageDownsample):
                self.errors[name] = fit_convolution(conv, [F.pad(h, (0, 1, 0, 1)) for h in x], targets, used)
            elif isinstance(layer, ImageUpsample):
                self.errors[name] = fit_noisy(conv, [F.interpolate(h, scale_factor=2.0) for h in x], targets, used)
            elif isinstance(layer, ClipDownsample):
                both = layer.space is not None and layer.time is not None
                middle = self._components((before[0], *stride[1:]), conv.out_channels) if both else targets
                self.errors |= _fit_clip_downsample(layer, name, x, middle, targets, used)
            else:
                assert isinstance(layer, ClipUpsample)
                both = layer.space is not None and layer.time is not None
                middle = self._components((stride[0], *before[1:]), conv.out_channels) if both else targets
                self.errors |= _fit_clip_upsample(layer, name, x, middle, targets, used)
            if norm_input is not None:
                norm_input.expand(conv)
            x = [conv(h) if isinstance(layer, ResidualBlock) else layer(h, _whole()) for h in x]
            used = torch.arange(targets[0].shape[1])
        if norm_input is not None:
            norm_input.undo(norm_out)
            used = norm_input.signed
        assert used is not None
        return [F.silu(norm_out(h)) for h in x], used

    def _components(self, stride: Stride, width: int) -> list[Tensor]:
        """Return the components that a layer of a width carries at a stride, per batch."""
        return self.flatten(self._pyramid.targets(stride, limit_components(3 * math.prod(stride), width)))


def _level_layers(network: CosmosEncoder | CosmosDecoder) -> _Layers:
    """Return the layers of the levels in their order, with their names."""
    layers: _Layers = []
    for i, level in enumerate(cast(list[Level], network.levels)):
        layers += [(f"levels.{i}.blocks.{j}.shortcut", block) for j, block in enumerate(level.blocks)]
        if level.resample is not None:
            layers.append((f"levels.{i}.resample", level.resample))
    return layers


def _middle_layers(middle: MiddleBlocks) -> _Layers:
    """Set the attention of the middle layers to zero, and return their residual blocks."""
    for attention in (middle.attention, middle.temporal_attention):
        if attention is not None:
            for parameter in attention.proj.parameters():
                parameter.zero_()
    return [("middle.first", middle.first), ("middle.last", middle.last)]


def _zero_branch(block: ResidualBlock) -> None:
    """Set the residual branch of a block to zero."""
    last = block.conv2.time if isinstance(block.conv2, FactorizedConv) else block.conv2
    for parameter in last.parameters():
        parameter.zero_()
    block.norm2.weight.fill_(BRANCH_SCALE)


def _output_conv(layer: nn.Module) -> nn.Conv2d | nn.Conv3d | None:
    """Return the convolution that computes the output of a layer of the trunk; None if the trunk passes it unchanged."""
    if isinstance(layer, ResidualBlock):
        return layer.shortcut
    if isinstance(layer, ImageDownsample | ImageUpsample):
        return layer.conv
    if isinstance(layer, ClipDownsample | ClipUpsample):
        return layer.out
    return layer.space if isinstance(layer, FactorizedConv) else cast(ImageConv, layer)


def _spatial_part(conv: _Conv) -> nn.Conv2d | nn.Conv3d:
    """Return the convolution over space, and make the one over time, if there is one, pass the current frame."""
    if isinstance(conv, ImageConv):
        return conv
    _pass_input(conv.time)
    return conv.space


def _pass_input(conv: nn.Conv3d) -> None:
    """Make a convolution without extent in space pass the current frame."""
    conv.weight.zero_()[:, :, -1, 0, 0] = torch.eye(conv.out_channels).to(conv.weight)
    assert conv.bias is not None
    conv.bias.zero_()


def _fit_clip_downsample(
    layer: ClipDownsample, name: str, x: list[Tensor], middle: list[Tensor], targets: list[Tensor], used: Tensor | None
) -> Errors:
    """Fit the steps of a layer. After the first of two, it carries the components `middle`."""
    errors: Errors = {}
    if layer.space is not None:
        padded, means = [F.pad(h, (0, 1, 0, 1)) for h in x], [F.avg_pool3d(h, (1, 2, 2)) for h in x]
        errors[f"{name}.space"] = fit_convolution(layer.space, padded, _subtract(middle, means), used)
        x = [layer.space(h) + mean for h, mean in zip(padded, means, strict=True)]
        used = torch.arange(middle[0].shape[1])
    if layer.time is not None:
        means = [F.avg_pool3d(torch.cat([h[:, :, :1], h], dim=2), (2, 1, 1)) for h in x]
        errors[f"{name}.time"] = fit_convolution(layer.time, _with_history(x), _subtract(targets, means), used)
    _pass_input(layer.out)
    return errors


def _fit_clip_upsample(
    layer: ClipUpsample, name: str, x: list[Tensor], middle: list[Tensor], targets: list[Tensor], used: Tensor | None
) -> Errors:
    """Fit the steps of a layer. After the first of two, it carries the components `middle`."""
    errors: Errors = {}
    if layer.time is not None:
        x = [h.repeat_interleave(2, dim=2)[:, :, 1:] for h in x]
        errors[f"{name}.time"] = fit_noisy(layer.time, _with_history(x), _subtract(middle, x), used)
        x = [h + layer.time(h, _whole()) for h in x]
        used = torch.arange(middle[0].shape[1])
    if layer.space is not None:
        x = [F.interpolate(h, scale_factor=(1.0, 2.0, 2.0)) for h in x]
        errors[f"{name}.space"] = fit_noisy(layer.space, x, _subtract(targets, x), used)
    _pass_input(layer.out)
    return errors


def _with_history(x: list[Tensor]) -> list[Tensor]:
    """Prepend the frames that a temporal convolution sees before a clip."""
    return [torch.cat([h[:, :, :1], h[:, :, :1], h], dim=2) for h in x]


def _subtract(targets: list[Tensor], x: list[Tensor]) -> list[Tensor]:
    """Return what a convolution must add to the first channels of x."""
    return [target - h[:, : target.shape[1]] for target, h in zip(targets, x, strict=True)]


def _patch_stride(network: CosmosEncoder | CosmosDecoder) -> Stride:
    return network.patch if network.video else 1, network.patch, network.patch


def _factors(layer: nn.Module) -> Stride:
    """Return the factors by which a layer changes the number of frames, the height and the width."""
    if isinstance(layer, ImageDownsample | ImageUpsample):
        return 1, 2, 2
    if isinstance(layer, ClipDownsample | ClipUpsample):
        space = 1 if layer.space is None else 2
        return 1 if layer.time is None else 2, space, space
    return 1, 1, 1


def _change(stride: Stride, layer: nn.Module) -> Stride:
    """Return the stride after a layer."""
    upsamples = isinstance(layer, ImageUpsample | ClipUpsample)
    return (divide_strides if upsamples else multiply_strides)(stride, _factors(layer))


def _whole() -> StreamState:
    """Return the state of a stream for a whole clip."""
    return StreamState(last=True)
