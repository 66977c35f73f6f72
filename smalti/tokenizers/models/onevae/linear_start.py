"""Starting OneVAE's networks as a linear codec.

Residual branches and attention are zero. What remains are the first and last convolutions, the shortcuts between levels of
different width, and the layers that change the resolution. Each is fitted by least squares to components of patches, on the
inputs that the layers before it give. Temporal convolutions pass frame 0 unchanged. Still and moving content therefore has
separate channels (`CausalComponents`), until the last shortcut of the encoder changes to the principal components that the
bottleneck codes.

Downsampling is exact. Upsampling is the best fit: a convolution after nearest-neighbor interpolation has the same weights
at all positions of a cell, and distinguishes them only by the cell's neighbors.

Shapes: B batch; T frames, H, W pixels; C channels; Z channels and t, h, w positions of the latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.convolution import convolve
from smalti.tokenizers.linear_start.causal_components import CausalComponents, Layout
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import CODE_RIDGE, Errors, apply_affine, code_targets
from smalti.tokenizers.linear_start.least_squares import fit_convolution, fit_noisy
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.linear_start.sub_kernels import Taps, fit_part
from smalti.tokenizers.models.onevae.blocks import CausalResidualBlock, FrameAttention
from smalti.tokenizers.models.onevae.causal_conv import CausalConv3d
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder
from smalti.tokenizers.models.onevae.first_frame_start import (
    first_frame_coefficients,
    fit_first_upsample,
    fit_last_downsample,
)
from smalti.tokenizers.models.onevae.linear_resampling import (
    NormInput,
    choose_targets,
    fit_downsample,
    fit_upsample,
    prepend_zeros,
    upsampled_stride,
)
from smalti.tokenizers.models.onevae.norms import RMSNorm
from smalti.tokenizers.models.onevae.resampling import Downsample, Upsample

_CURRENT: Taps = slice(2, 3), slice(1, 2), slice(1, 2)
"""The current frame and position in the kernel of a causal convolution."""

_TrunkLayer = Downsample | Upsample | nn.Conv3d
"""A layer of the trunk: a change of resolution, or the shortcut of a residual block."""


@torch.no_grad()
def fit_encoder(encoder: OneVAEEncoder, pyramid: Pyramid, code: StartCode) -> Errors:
    """Set the weights of an encoder so that it computes a code of principal components.

    Args:
        encoder: changed in place; on the device of the data, in evaluation mode.
        pyramid: the data.
        code: what the bottleneck expects.

    Returns:
        The share of the variance of its targets that each fitted layer does not explain.

    Raises:
        SmaltiError: a layer changes only the number of frames.
    """
    components, errors = CausalComponents(pyramid), Errors()
    layers = _trunk(encoder, "layers", "middle")
    split = (
        max(i for i, (_, layer) in enumerate(layers) if isinstance(layer, Downsample)) if encoder.first_frame else -1
    )
    # If nothing follows the last downsampling, the norm also follows the layer before it: the first frame skips it.
    ends = {len(layers) - 1, split - 1} if split == len(layers) - 1 else {len(layers) - 1}
    norm = encoder.norm_out if -1 in ends else None
    layout, targets = choose_targets(components, (1, 1, 1), encoder.conv_in.out_channels, norm)
    x = prepend_zeros(pyramid.batches)
    errors["conv_in"] = fit_convolution(encoder.conv_in, x, targets)
    x = [convolve(encoder.conv_in, h) for h in x]
    coefficients = pyramid.coefficients(encoder.stride, code.hidden.shape[1] - 1)
    for index, (name, layer) in enumerate(layers):
        norm = encoder.norm_out if index in ends else None
        if index == split:
            assert isinstance(layer, Downsample)
            fit_last_downsample(layer, x, layout, coefficients, components, errors, name, norm)
            # From here on, the first frames and the other frames are separate batches.
            moves = [h.shape[2] > 1 for h in x]
            first = first_frame_coefficients(components, encoder.stride, code.hidden.shape[1] - 1)
            coefficients = first + [c[:, :, 1:] for c in compress(coefficients, moves)]
            x = [h[:, :, :1] for h in x] + [_pass(layer, h)[:, :, 1:] for h in compress(x, moves)]
            continue
        if not isinstance(layer, nn.Conv3d):
            assert isinstance(layer, Downsample)
            layout = fit_downsample(layer, x, layout, components, errors, name, norm)
        elif index < len(layers) - 1:
            width = layer.out_channels if norm is not None else min(layer.out_channels, layout.channels)
            layout, targets = choose_targets(components, layout.stride, width, norm)
            errors[name] = fit_convolution(layer, x, targets)
        else:
            assert norm is not None
            units = code.hidden[: NormInput.room(norm, layer.out_channels)]
            targets = [apply_affine(units, c) for c in coefficients]
            targets = NormInput(norm, layer.out_channels, targets).extend(targets)
            errors[name] = fit_convolution(layer, x, targets, layout.channels)
        x = [_pass(layer, h) for h in x]
    x = [F.silu(encoder.norm_out(h)) for h in x]
    errors["conv_out"] = fit_part(
        encoder.conv_out, _CURRENT, x, code_targets(code, coefficients), x[0].shape[1], CODE_RIDGE
    )
    _set_identity(encoder.head)
    return errors


@torch.no_grad()
def fit_decoder(
    decoder: OneVAEDecoder, pyramid: Pyramid, code: StartCode, latents: Sequence[tuple[Tensor, ...]]
) -> Errors:
    """Set the weights of a decoder so that it reconstructs the pixels from codewords as well as its trunk can.

    Args:
        decoder: changed in place; on the device of the data, in evaluation mode.
        pyramid: the data.
        code: what the bottleneck codes.
        latents: codewords of each batch, one or two grids (B, Z, t, h, w).

    Returns:
        The share of the variance of its targets that each fitted layer does not explain.

    Raises:
        SmaltiError: a layer changes only the number of frames.
    """
    components, errors = CausalComponents(pyramid), Errors()
    _set_identity(decoder.head)
    layers = _trunk(decoder, "middle", "layers")
    if decoder.first_frame:
        (name, layer), *layers = layers
        assert isinstance(layer, Upsample)
        norm = None if layers else decoder.norm_out
        x, layout = fit_first_upsample(decoder, layer, code.count, components, latents, errors, name, norm)
    else:
        layout = components.choose(upsampled_stride(decoder.layers), decoder.conv_in.out_channels)
        x = prepend_zeros([grid for (grid,) in latents])
        # With weights at the center only, the start is as good, but training is much slower (benchmarks/RESULTS.md).
        errors["conv_in"] = fit_noisy(decoder.conv_in, x, components.targets(layout))
        x = [convolve(decoder.conv_in, h) for h in x]
    for index, (name, layer) in enumerate(layers):
        norm = decoder.norm_out if index == len(layers) - 1 else None
        if not isinstance(layer, nn.Conv3d):
            assert isinstance(layer, Upsample)
            layout = fit_upsample(layer, x, layout, components, errors, name, norm)
        else:
            used = layout.channels
            width = layer.out_channels if norm is not None else min(layer.out_channels, used)
            layout, targets = choose_targets(components, layout.stride, width, norm)
            errors[name] = fit_noisy(layer, x, targets, used)
        x = [_pass(layer, h) for h in x]
    x = [F.silu(decoder.norm_out(h)) for h in x]
    if layout.signed and not isinstance(decoder.norm_out, RMSNorm):
        errors["conv_out"] = _fit_pairs(decoder.conv_out, x, pyramid.batches, layout)
    else:
        errors["conv_out"] = fit_noisy(decoder.conv_out, prepend_zeros(x), pyramid.batches, layout.channels)
    return errors


def _trunk(network: nn.Module, *groups: str) -> list[tuple[str, _TrunkLayer]]:
    """Set residual branches to zero, and return the layers that remain in the given groups, with their names."""
    layers: list[tuple[str, _TrunkLayer]] = []
    for group in groups:
        for name, layer in network.get_submodule(group).named_children():
            if isinstance(layer, (Downsample, Upsample)):
                layers.append((f"{group}.{name}", layer))
                continue
            assert isinstance(layer, (CausalResidualBlock, FrameAttention))
            conv = layer.conv2 if isinstance(layer, CausalResidualBlock) else layer.proj
            for parameter in conv.parameters():
                parameter.zero_()
            if isinstance(layer, CausalResidualBlock) and layer.shortcut is not None:
                layers.append((f"{group}.{name}.shortcut", layer.shortcut))
    return layers


def _pass(layer: _TrunkLayer, x: Tensor) -> Tensor:
    """Apply a layer to a whole clip (B, C, T, H, W)."""
    return convolve(layer, x) if isinstance(layer, nn.Conv3d) else layer(x, StreamState(last=True))


def _fit_pairs(conv: CausalConv3d, x: Sequence[Tensor], targets: Sequence[Tensor], layout: Layout) -> float:
    """Fit a causal convolution after SiLU to signed pairs (see `Layout`), whose differences are linear.

    Separate weights for x and -x would bend the values, as it suits the training data.
    """
    half = layout.channels // 2
    differences = [h[:, :half] - h[:, half : 2 * half] for h in x]
    error = fit_part(conv, _CURRENT, differences, targets, half)
    conv.weight[:, half : 2 * half] = -conv.weight[:, :half]
    return error


def _set_identity(head: nn.Conv3d) -> None:
    head.weight.copy_(torch.eye(head.in_channels).to(head.weight)[..., None, None, None])
    for parameter in head.parameters():
        if parameter.ndim == 1:
            parameter.zero_()
