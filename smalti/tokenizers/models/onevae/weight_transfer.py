"""Initialize a tokenizer of OneVAE's family from one with other strides, levels, latent channels or branches.

OneVAE is initialized from Wan2.1's continuous tokenizer in this way, and each of its models from the previous one (arXiv
2508.09857). Each weight of the target is one of:

- Copied: the whole weight comes from the source. From pixels to latents, each level copies the blocks of the next source
  level with the same widths, or of the same source level again if there is none. For example, OneVAE 8x16x16 copies
  Wan2.1's levels 0 1 2 3 3 in the encoder and 0 1 2 2 3 in the decoder. Additional downsampling and upsampling layers copy
  the source's last one.
- Partially copied: the number of latent channels differs. Channels that exist in the source keep their meaning, because
  they read only channels that exist in the source. New channels stay random in the encoder and have zero weights in the
  decoder. The reconstruction equals the source's. With zeros on both sides, new channels would never receive a gradient.
- New: the source has no such layer. It is initialized close to the identity if possible
  (`smalti.tokenizers.models.onevae.identity_init`), else at random.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck
from smalti.tokenizers.bottlenecks.projected import Projected
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder
from smalti.tokenizers.models.onevae.identity_init import init_first_frame, init_identity, init_projections
from smalti.tokenizers.models.onevae.layer_matching import match_layers
from smalti.tokenizers.tokenizer import Tokenizer

_ChannelMap = list[tuple[slice, slice]]
"""Pairs of channel ranges (target, source) that correspond to each other."""

_WeightMaps = dict[str, list[_ChannelMap | None]]
"""Channel maps of the leading axes of weights, by name. None and missing axes: all channels, one to one."""

_Outcome = Literal["copied", "partially_copied", "new"]


@dataclass(frozen=True)
class TransferReport:
    """How many parameters of a part of a tokenizer were copied from the source, as defined in this module's docstring.

    Attributes:
        copied: parameters of weights that were copied.
        partially_copied: parameters of weights that were partially copied.
        new: parameters of weights that do not exist in the source.
    """

    copied: int
    partially_copied: int
    new: int

    def __str__(self) -> str:
        total = max(self.copied + self.partially_copied + self.new, 1)
        return ", ".join(f"{n:,} ({n / total:.1%}) {kind.replace('_', ' ')}" for kind, n in vars(self).items())


def transfer_weights(target: Tokenizer, source: Tokenizer) -> dict[str, TransferReport]:
    """Initialize a tokenizer from the weights of another one, as described in this module's docstring.

    Args:
        target: the tokenizer to initialize in place, with random weights.
        source: the trained tokenizer, such as Wan2.1's from `from_published`.

    Returns:
        A report for each of encoder, bottleneck and decoder.

    Raises:
        SmaltiError: a tokenizer is not of OneVAE's family, or the widths of their first levels differ.
    """
    (encoder, decoder), (source_encoder, source_decoder) = _get_networks(target), _get_networks(source)
    channels, source_channels = encoder.conv_in.out_channels, source_encoder.conv_in.out_channels
    if channels != source_channels:
        raise SmaltiError(
            f"The source has {source_channels} channels in its first level and the target {channels}: set channels to "
            f"{source_channels} in the target's encoder and decoder."
        )
    z, source_z = decoder.in_dim, source_decoder.in_dim
    shared = min(z, source_z)
    latent: _ChannelMap = [(slice(0, shared), slice(0, shared))]
    log_variances: _ChannelMap = [(slice(z, z + shared), slice(source_z, source_z + shared))]
    both_continuous = encoder.out_dim == 2 * z and source_encoder.out_dim == 2 * source_z
    with torch.no_grad():
        outcomes = {
            "encoder": _transfer_encoder(
                encoder, source_encoder, latent + log_variances if both_continuous else latent
            ),
            "bottleneck": _transfer_bottleneck(target.bottleneck, source.bottleneck, latent),
            "decoder": _transfer_decoder(decoder, source_decoder, latent),
        }
    return {part: _report(getattr(target, part), weights) for part, weights in outcomes.items()}


def summarize(reports: Mapping[str, TransferReport]) -> str:
    """Summarize the reports of `transfer_weights` in one line: the total, then each part that has parameters."""
    total = TransferReport(*(sum(n) for n in zip(*(vars(report).values() for report in reports.values()), strict=True)))
    return "; ".join(
        f"{name}: {report}" for name, report in {"all": total, **reports}.items() if any(vars(report).values())
    )


def _get_networks(tokenizer: Tokenizer) -> tuple[OneVAEEncoder, OneVAEDecoder]:
    """Return the encoder and the decoder, or raise a SmaltiError if they are not of OneVAE's family."""
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    if not (isinstance(encoder, OneVAEEncoder) and isinstance(decoder, OneVAEDecoder)):
        raise SmaltiError(
            "Weights can be transferred between architectures only within OneVAE's family (including Wan2.1), but one of "
            f"the tokenizers has a {type(encoder).__name__} and a {type(decoder).__name__}: start from a checkpoint of the "
            "same architecture, without transfer."
        )
    return encoder, decoder


def _transfer_encoder(target: OneVAEEncoder, source: OneVAEEncoder, latent: _ChannelMap) -> dict[str, _Outcome]:
    weights = source.state_dict()
    if sum(channels.stop - channels.start for _, channels in latent) < source.out_dim:
        weights |= _merge_head(source)  # the head would mix channels that are dropped into the others
    maps: _WeightMaps = {
        "conv_out.weight": [latent], "conv_out.bias": [latent], "head.weight": [latent, latent], "head.bias": [latent],
    }  # fmt: skip
    return _transfer_layers(target, source, weights, maps)


def _transfer_decoder(target: OneVAEDecoder, source: OneVAEDecoder, latent: _ChannelMap) -> dict[str, _Outcome]:
    maps: _WeightMaps = {"conv_in.weight": [None, latent]}
    for layer in ("head", "first_to_latent"):  # from latent to latent channels
        maps |= {f"{layer}.weight": [latent, latent], f"{layer}.bias": [latent]}
    outcomes = _transfer_layers(target, source, source.state_dict(), maps)
    if target.first_frame and not source.first_frame:
        init_first_frame(target)
    return outcomes


def _transfer_bottleneck(target: Bottleneck, source: Bottleneck, latent: _ChannelMap) -> dict[str, _Outcome]:
    """Transfer the projections around the quantizer. In a joint bottleneck, only the discrete branch has weights."""
    quantizer, source_quantizer = (bottleneck.branches.get("discrete", bottleneck) for bottleneck in (target, source))
    weights = source_quantizer.state_dict() if type(source_quantizer) is type(quantizer) else {}
    projected = isinstance(quantizer, Projected)
    maps: _WeightMaps = (
        {"down.weight": [None, latent], "up.weight": [latent, None], "up.bias": [latent]} if projected else {}
    )
    outcomes = _copy_weights(quantizer, weights, maps)
    if projected and outcomes["down.weight"] == outcomes["up.weight"] == "new":
        init_projections(quantizer, channels=latent[0][0].stop)
    return outcomes if quantizer is target else {f"discrete.{name}": outcome for name, outcome in outcomes.items()}


def _transfer_layers(
    target: OneVAEEncoder | OneVAEDecoder,
    source: OneVAEEncoder | OneVAEDecoder,
    weights: Mapping[str, Tensor],
    maps: _WeightMaps,
) -> dict[str, _Outcome]:
    """Transfer `weights`, the modified state dict of `source`, to matching layers, and initialize new layers."""
    layers = match_layers(target, source)

    def source_name(name: str) -> str:
        return re.sub(r"^layers\.(\d+)", lambda match: f"layers.{layers.get(int(match[1]), 'none')}", name)

    matched = {name: weights[source_name(name)] for name in target.state_dict() if source_name(name) in weights}
    outcomes = _copy_weights(target, matched, maps)
    for name, layer in target.named_modules():
        new = {child for child, _ in layer.named_children() if outcomes.get(f"{name}.{child}.weight") == "new"}
        init_identity(layer, new)
    return outcomes


def _copy_weights(target: nn.Module, weights: Mapping[str, Tensor], maps: _WeightMaps) -> dict[str, _Outcome]:
    """Copy the channels that each weight of a module has in common with the weight of the same name."""
    return {
        name: _copy_weight(weight, weights.get(name), maps.get(name, []))
        for name, weight in target.state_dict().items()
    }


def _copy_weight(target: Tensor, source: Tensor | None, maps: list[_ChannelMap | None]) -> _Outcome:
    """Copy the channels that two weights have in common. Other weights of the copied output channels become zero."""
    if source is None:
        return "new"
    axes = [*maps, *[None] * (target.ndim - len(maps))]
    if any(axis is None and n != m for axis, n, m in zip(axes, target.shape, source.shape, strict=True)):
        return "new"
    ranges = [[(slice(None), slice(None))] if axis is None else axis for axis in axes]
    for rows, _ in ranges[0]:
        target[rows] = 0
    copied = 0
    for region in product(*ranges):
        target_region, source_region = zip(*region, strict=True)
        target[target_region] = source[source_region]
        copied += target[target_region].numel()
    return "copied" if copied == target.numel() else "partially_copied"


def _merge_head(encoder: OneVAEEncoder) -> dict[str, Tensor]:
    """Return weights that merge the encoder's last two convolutions into the first of them; the second is the identity."""
    head = encoder.head.weight[..., 0, 0, 0]
    assert encoder.head.bias is not None
    assert encoder.conv_out.bias is not None
    return {
        "conv_out.weight": torch.einsum("oi, i... -> o...", head, encoder.conv_out.weight),
        "conv_out.bias": head @ encoder.conv_out.bias + encoder.head.bias,
        "head.weight": torch.eye(len(head)).to(head)[..., None, None, None],
        "head.bias": torch.zeros_like(encoder.head.bias),
    }


def _report(part: nn.Module, outcomes: Mapping[str, _Outcome]) -> TransferReport:
    counts: dict[_Outcome, int] = {"copied": 0, "partially_copied": 0, "new": 0}
    for name, weight in part.state_dict().items():
        counts[outcomes.get(name, "new")] += weight.numel()
    return TransferReport(**counts)
