"""Fitting the layers of OneVAE's networks around the separate grid of the first frame, for a start as a linear codec.

The grid of the first frame and that of the other frames pass the same layers and get the same code, although their
positions are patches of different sizes. A channel of both therefore carries the component with the same rank: channel 0
the strongest component of the first frame's patches, which are half as high and wide, and that of the other patches.

Shapes: B batch; C channels; T frames, H, W positions at the input of a layer; K components; Z channels of the latent;
t, h, w latent positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import torch
from torch import Tensor, nn

from smalti.tokenizers.base import StreamState
from smalti.tokenizers.layers.convolution import convolve
from smalti.tokenizers.layers.frames import apply_per_frame
from smalti.tokenizers.linear_start.causal_components import CausalComponents, Layout
from smalti.tokenizers.linear_start.fitting import CODE_RIDGE, Errors, frame_images
from smalti.tokenizers.linear_start.least_squares import NormalEquations, fit_convolution, fit_noisy
from smalti.tokenizers.linear_start.patches import Stride
from smalti.tokenizers.linear_start.pyramid import component_scales
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.linear_resampling import (
    NormInput,
    check_changes_space,
    choose_targets,
    fit_upsample,
    pad_channels,
    pad_images,
    prepend_zeros,
    upsampled_stride,
)
from smalti.tokenizers.models.onevae.resampling import Downsample, Upsample


def first_frame_coefficients(components: CausalComponents, stride: Stride, count: int) -> list[Tensor]:
    """Return the coefficients of the first frame's grid, (B, K, 1, 2 h, 2 w) of each batch.

    Args:
        components: the data.
        stride: stride of the grid of the other frames.
        count: number of coefficients K. Those that smaller patches do not have are zero.
    """
    _, height, width = stride
    coefficients = components.pyramid.coefficients((1, height // 2, width // 2), count)
    return pad_channels([c[:, :, :1] for c in coefficients], count)


def fit_last_downsample(
    layer: Downsample,
    x: Sequence[Tensor],
    layout: Layout,
    coefficients: Sequence[Tensor],
    components: CausalComponents,
    errors: Errors,
    name: str,
    norm: nn.Module | None,
) -> None:
    """Fit the downsampling that the first frame skips, so that the other frames have the same channels as the first one.

    Args:
        layer: changed in place.
        x: its inputs (B, C, T, H, W).
        layout: what the inputs carry: for the first frame, this is also the output.
        coefficients: those of patches at the output, (B, K, t, h, w) of each batch.
        components: the data.
        errors: receives the errors of the convolutions.
        name: name of the layer.
        norm: the norm after the layer if no other layer follows; None for no norm.

    Raises:
        SmaltiError: the layer does not halve height and width.
    """
    space = check_changes_space(layer.space, name)
    time, height, width = layout.stride
    variances = components.pyramid.components((1, height, width), layout.still).variances[: layout.still]
    scales = component_scales(variances, variances[0])[:, None, None, None]
    targets = [c * scales for c in pad_channels([c[:, : layout.still] for c in coefficients], layout.still)]
    if layout.signed:
        targets = [torch.cat([t, -t], dim=1) for t in targets]
    targets = pad_channels(targets, layout.channels)
    if norm is not None:
        targets = NormInput(norm, space.out_channels, components.targets(layout)).extend(targets)
    moves = [h.shape[2] > 1 for h in x]
    clips, targets = list(compress(x, moves)), [t[:, :, 1:] for t in compress(targets, moves)]
    if layer.time is None:
        if clips:
            errors[f"{name}.space"] = fit_convolution(
                space, pad_images([h[:, :, 1:] for h in clips]), frame_images(targets)
            )
        return
    before = components.targets(components.choose((time, 2 * height, 2 * width), space.out_channels))
    errors[f"{name}.space"] = fit_convolution(space, pad_images(x), frame_images(before))
    if clips:
        errors[f"{name}.time"] = fit_convolution(layer.time, [apply_per_frame(space, h) for h in clips], targets)


def fit_first_upsample(
    decoder: OneVAEDecoder,
    layer: Upsample,
    count: int,
    components: CausalComponents,
    latents: Sequence[tuple[Tensor, ...]],
    errors: Errors,
    name: str,
    norm: nn.Module | None,
) -> tuple[list[Tensor], Layout]:
    """Fit the layers of a decoder up to its first upsampling, and the two that only the first frame's grid passes.

    Args:
        decoder: changed in place.
        layer: its first upsampling.
        count: number of coefficients K that the code represents.
        components: the data.
        latents: codewords of each batch: the grid of the first frame (B, Z, 1, 2 h, 2 w), and that of the others
            (B, Z, t - 1, h, w) if there are any.
        errors: receives the errors of the layers.
        name: name of the first upsampling.
        norm: the norm after the layer if no other layer follows; None for no norm.

    Returns:
        The features (B, C, T, H, W) after the first upsampling, and what they carry.

    Raises:
        SmaltiError: the layer does not double height and width.
    """
    time, height, width = stride = upsampled_stride(decoder.layers)
    firsts = [grids[0] for grids in latents]
    first = first_frame_coefficients(components, stride, count)
    coefficients = components.pyramid.coefficients(stride, count)
    codewords = _fit_codewords(first, firsts, [c[:, :, :1] for c in coefficients])
    errors["first_to_latent"] = fit_noisy(decoder.first_to_latent, pad_images(firsts), frame_images(codewords))
    grids = [torch.cat([apply_per_frame(decoder.first_to_latent, first), *rest], dim=2) for first, *rest in latents]
    channels = decoder.conv_in.out_channels
    variances = components.pyramid.components(stride, count).variances[: min(count, channels)]
    scales = component_scales(variances, variances[0])[:, None, None, None]
    targets = [c[:, :channels] * scales for c in (*first, *coefficients)]
    errors["conv_in"] = fit_noisy(decoder.conv_in, prepend_zeros([*firsts, *grids]), targets)
    x = [convolve(decoder.conv_in, h) for h in prepend_zeros(grids)]
    middle = (time if layer.time is None else time // 2, height, width)
    still = components.choose(middle, channels).still
    layout = fit_upsample(layer, x, Layout(stride, still, channels - still), components, errors, name, norm)
    _, targets = choose_targets(components, layout.stride, decoder.first_to_frame.out_channels, norm)
    inputs = [convolve(decoder.conv_in, h) for h in prepend_zeros(firsts)]
    errors["first_to_frame"] = fit_noisy(
        decoder.first_to_frame, frame_images(inputs), frame_images([t[:, :, :1] for t in targets])
    )
    return [
        torch.cat([apply_per_frame(decoder.first_to_frame, first), layer(h, StreamState(last=True))[:, :, 1:]], dim=2)
        for first, h in zip(inputs, x, strict=True)
    ], layout


def _fit_codewords(
    first: Sequence[Tensor], codewords: Sequence[Tensor], coefficients: Sequence[Tensor]
) -> list[Tensor]:
    """Return the codewords of coefficients (B, K, 1, h, w), by a linear regression on those of the first frame's grid."""
    equations = NormalEquations(first[0].shape[1], codewords[0].shape[1], first[0].device)
    for c, z in zip(first, codewords, strict=True):
        equations.add(_rows(c), _rows(z))
    weight, bias, _ = equations.solve(ridge=CODE_RIDGE)
    return [torch.einsum("zk, bk... -> bz...", weight.to(c), c) + bias.to(c)[:, None, None, None] for c in coefficients]


def _rows(x: Tensor) -> Tensor:
    """Return the positions of (B, C, T, H, W) as rows (N, C)."""
    return x.movedim(1, -1).flatten(0, -2)
