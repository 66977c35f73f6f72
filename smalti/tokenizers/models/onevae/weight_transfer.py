"""A tokenizer of OneVAE's family that starts from another one's weights, with other strides, levels, latents or paths.

So OneVAE starts from Wan2.1's continuous tokenizer, and each of its models from the one before (arXiv 2508.09857). Each
weight of the target is one of three:

- taken: a weight of the source, whole. A level takes the blocks of the source's next level of its widths, counted from the
  pixels on, or where there is none those of the same one again. So 8x16x16 takes Wan2.1's levels 0 1 2 3 3 in the encoder
  and 0 1 2 2 3 in the decoder. A change of resolution beyond the source's last is a copy of that.
- sliced: taken in part, where the latent has other channels. Channels that the source has read only such channels, so that
  they keep their meaning; new ones stay fresh in the encoder, and the decoder ignores them until it has learnt better. So
  the reconstruction is the source's. Were both sides zero, neither would ever see a gradient.
- new: the source has no such layer. It starts as a plain operation where there is one (`smalti.tokenizers.models.onevae.identity_init`),
  else it is fresh.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck
from smalti.tokenizers.bottlenecks.joint import Joint
from smalti.tokenizers.bottlenecks.projected import Projected
from smalti.tokenizers.models.onevae.blocks import CausalResidualBlock
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder
from smalti.tokenizers.models.onevae.identity_init import init_first_frame, init_identity, init_projections
from smalti.tokenizers.tokenizer import Tokenizer

_Runs = list[tuple[slice, slice]]
"""Runs of channels that two networks have in common, (ours, theirs) each."""
_Axes = dict[str, list[_Runs | None]]
"""Of weights by name, the first axes: which channels are in common; None: all of them, or the weight is another."""
_Kinds = dict[str, Literal["taken", "sliced", "new"]]
"""What became of each weight."""


@dataclass(frozen=True)
class TransferReport:
    """How many parameters of a part came from the source; see the top of this file.

    Attributes:
        taken: of weights that were taken whole.
        sliced: of weights that were taken in part.
        new: of weights that the source does not have.
    """

    taken: int
    sliced: int
    new: int

    def __str__(self) -> str:
        whole = max(self.taken + self.sliced + self.new, 1)
        return ", ".join(f"{n:,} ({n / whole:.1%}) {kind}" for kind, n in vars(self).items())


def transfer_weights(target: Tokenizer, source: Tokenizer) -> dict[str, TransferReport]:
    """Fill a tokenizer with another one's weights, as the top of this file says.

    Args:
        target: filled in place; of fresh weights, on any device.
        source: where from, such as what `from_published` gives for Wan2.1.

    Returns:
        What was taken, a part: encoder, bottleneck, decoder.

    Raises:
        SmaltiError: one of them is not of OneVAE's family, or they differ in the width of their first level.
    """
    (encoder, decoder), (their_encoder, their_decoder) = _networks(target), _networks(source)
    first, theirs = encoder.conv_in.out_channels, their_encoder.conv_in.out_channels
    if first != theirs:
        raise SmaltiError(
            f"The networks of the source have {theirs} channels and those of the target {first}, so that their weights do "
            f"not fit: give the target's encoder and decoder channels {theirs}."
        )
    z, other = decoder.in_dim, their_decoder.in_dim
    same = min(z, other)
    kept: _Runs = [(slice(0, same), slice(0, same))]
    log_variances: _Runs = [(slice(z, z + same), slice(other, other + same))]
    both = encoder.out_dim == 2 * z and their_encoder.out_dim == 2 * other
    with torch.no_grad():
        parts = {
            "encoder": _into_encoder(encoder, their_encoder, kept + log_variances if both else kept),
            "bottleneck": _into_bottleneck(target.bottleneck, source.bottleneck, kept),
            "decoder": _into_decoder(decoder, their_decoder, kept),
        }
    return {part: _counted(getattr(target, part), kinds) for part, kinds in parts.items()}


def summarize(adopted: Mapping[str, TransferReport]) -> str:
    """What `transfer_weights` gave, in one line: the whole, and each part that has parameters."""
    whole = TransferReport(*(sum(n) for n in zip(*(vars(part).values() for part in adopted.values()), strict=True)))
    return "; ".join(f"{name}: {part}" for name, part in {"all": whole, **adopted}.items() if any(vars(part).values()))


def match_levels(ours: list[tuple[int, int]], theirs: list[tuple[int, int]]) -> list[int]:
    """For each of our levels, the source's that it takes its blocks from: the next of its widths, else the same one again.

    >>> paired([(8, 8), (8, 16), (8, 16), (16, 16)], [(8, 8), (8, 16), (16, 16)])
    [0, 1, 1, 2]

    Args:
        ours: channels that come in and go out, one pair a level, from the pixels on.
        theirs: the source's.
    """
    found: list[int] = []
    level = -1
    for widths in ours:
        level = next((i for i in range(level + 1, len(theirs)) if theirs[i] == widths), max(level, 0))
        found.append(level)
    return found


def _networks(tokenizer: Tokenizer) -> tuple[OneVAEEncoder, OneVAEDecoder]:
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    if not (isinstance(encoder, OneVAEEncoder) and isinstance(decoder, OneVAEDecoder)):
        raise SmaltiError(
            "Only in OneVAE's family (Wan2.1's too) can weights of another architecture be adopted, but one of the two has "
            f"a {type(encoder).__name__} and a {type(decoder).__name__}: start from the same architecture, without transfer."
        )
    return encoder, decoder


def _into_encoder(ours: OneVAEEncoder, theirs: OneVAEEncoder, coded: _Runs) -> _Kinds:
    weights = theirs.state_dict()
    if sum(their.stop - their.start for _, their in coded) < theirs.out_dim:
        weights |= _without_head(theirs)  # which would have mixed the channels that are left behind into the others
    axes: _Axes = {
        "conv_out.weight": [coded], "conv_out.bias": [coded], "head.weight": [coded, coded], "head.bias": [coded],
    }  # fmt: skip
    return _into_layers(ours, theirs, weights, axes)


def _into_decoder(ours: OneVAEDecoder, theirs: OneVAEDecoder, kept: _Runs) -> _Kinds:
    axes: _Axes = {"conv_in.weight": [None, kept]}
    for square in ("head", "first_to_latent"):
        axes |= {f"{square}.weight": [kept, kept], f"{square}.bias": [kept]}
    kinds = _into_layers(ours, theirs, theirs.state_dict(), axes)
    if ours.first_frame and not theirs.first_frame:
        init_first_frame(ours)
    return kinds


def _into_bottleneck(target: Bottleneck, source: Bottleneck, kept: _Runs) -> _Kinds:
    ours, theirs = (b.discrete if isinstance(b, Joint) else b for b in (target, source))
    weights = theirs.state_dict() if type(theirs) is type(ours) else {}
    projections: _Axes = {"down.weight": [None, kept], "up.weight": [kept, None], "up.bias": [kept]}
    axes = projections if isinstance(ours, Projected) else {}
    kinds: _Kinds = {
        name: _fill(weight, weights.get(name), axes.get(name, [])) for name, weight in ours.state_dict().items()
    }
    if isinstance(ours, Projected) and kinds["down.weight"] == kinds["up.weight"] == "new":
        init_projections(ours, kept[0][0].stop)
    return kinds if ours is target else {f"discrete.{name}": kind for name, kind in kinds.items()}


def _into_layers(ours: nn.Module, theirs: nn.Module, weights: Mapping[str, Tensor], axes: _Axes) -> _Kinds:
    """Fill an encoder or a decoder with the weights of another one, and start what is new."""
    layers = _layers(ours, theirs)

    def source(name: str) -> str:
        return re.sub(r"^layers\.(\d+)", lambda match: f"layers.{layers.get(int(match[1]), 'none')}", name)

    kinds: _Kinds = {
        name: _fill(weight, weights.get(source(name)), axes.get(name, [])) for name, weight in ours.state_dict().items()
    }
    for name, layer in ours.named_modules():
        init_identity(layer, {c for c, _ in layer.named_children() if kinds.get(f"{name}.{c}.weight") == "new"})
    return kinds


class _Level(NamedTuple):
    """Places in `layers`; widths are channels that come in and go out."""

    blocks: list[int]
    change: int | None
    widths: tuple[int, int]


def _levels(network: nn.Module) -> list[_Level]:
    """The levels of an encoder or a decoder, from the pixels on, each with the change of resolution that it ends with."""
    assert isinstance(network, (OneVAEEncoder, OneVAEDecoder))
    levels: list[_Level] = []
    blocks: dict[int, CausalResidualBlock] = {}
    for place, layer in [*enumerate(network.layers), (None, None)]:
        if isinstance(layer, CausalResidualBlock) and place is not None:
            blocks[place] = layer
            continue
        first, *_, last = [next(iter(blocks.values())), *blocks.values()]
        levels.append(_Level(list(blocks), place, (first.conv1.in_channels, last.conv2.out_channels)))
        blocks = {}
    return levels if isinstance(network, OneVAEEncoder) else levels[::-1]


def _layers(ours: nn.Module, theirs: nn.Module) -> dict[int, int]:
    """Our place in `layers` of each layer that takes its weights from the source, and its place there."""
    mine, others = _levels(ours), _levels(theirs)
    found: dict[int, int] = {}
    for level, i in zip(mine, match_levels([m.widths for m in mine], [o.widths for o in others]), strict=True):
        found |= zip(level.blocks, others[i].blocks, strict=False)  # blocks beyond the source's are new
        changes = [other.change for other in others[i::-1] if other.change is not None]
        if level.change is not None and changes:
            found[level.change] = changes[0]
    return found


def _fill(ours: Tensor, theirs: Tensor | None, axes: list[_Runs | None]) -> Literal["taken", "sliced", "new"]:
    """Copy what two weights have in common into ours; a row of which a part is copied is zero elsewhere."""
    if theirs is None:
        return "new"
    runs = [*axes, *[None] * (ours.ndim - len(axes))]
    if any(run is None and n != m for run, n, m in zip(runs, ours.shape, theirs.shape, strict=True)):
        return "new"
    common = [[(slice(None), slice(None))] if run is None else run for run in runs]
    for rows, _ in common[0]:
        ours[rows] = 0
    filled = 0
    for piece in product(*common):
        ours[tuple(our for our, _ in piece)] = theirs[tuple(their for _, their in piece)]
        filled += ours[tuple(our for our, _ in piece)].numel()
    return "taken" if filled == ours.numel() else "sliced"


def _without_head(encoder: OneVAEEncoder) -> dict[str, Tensor]:
    """An encoder's two last convolutions as one and the identity."""
    mix = encoder.head.weight[..., 0, 0, 0]
    assert encoder.head.bias is not None
    assert encoder.conv_out.bias is not None
    return {
        "conv_out.weight": torch.einsum("oi, i... -> o...", mix, encoder.conv_out.weight),
        "conv_out.bias": mix @ encoder.conv_out.bias + encoder.head.bias,
        "head.weight": torch.eye(len(mix)).to(mix)[..., None, None, None],
        "head.bias": torch.zeros_like(encoder.head.bias),
    }


def _counted(part: nn.Module, kinds: _Kinds) -> TransferReport:
    counts = {"taken": 0, "sliced": 0, "new": 0}
    for name, weight in part.state_dict().items():
        counts[kinds[name]] += weight.numel()
    return TransferReport(**counts)
