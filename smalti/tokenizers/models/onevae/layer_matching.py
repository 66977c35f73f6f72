"""Matching each layer of a target network to the layer of a source network whose weights it copies."""

from __future__ import annotations

from typing import NamedTuple

from smalti.tokenizers.models.onevae.blocks import CausalResidualBlock
from smalti.tokenizers.models.onevae.decoder import OneVAEDecoder
from smalti.tokenizers.models.onevae.encoder import OneVAEEncoder

Widths = tuple[int, int]
"""Input and output channels of a level."""


class _Level(NamedTuple):
    """A resolution level of a network, as indices into its `layers`.

    Attributes:
        blocks: the residual blocks.
        resampling: the downsampling or upsampling layer after the blocks; None if the network continues without one.
        widths: input and output channels of the blocks.
    """

    blocks: list[int]
    resampling: int | None
    widths: Widths


def match_levels(target: list[Widths], source: list[Widths]) -> list[int]:
    """Return the source level whose blocks each target level copies.

    This is the next source level with the same widths, or the same level again if there is none.

    >>> match_levels([(8, 8), (8, 16), (8, 16), (16, 16)], [(8, 8), (8, 16), (16, 16)])
    [0, 1, 1, 2]

    Args:
        target: widths of each level of the target, from pixels to latents.
        source: widths of each level of the source, from pixels to latents.
    """
    matches: list[int] = []
    level = -1
    for widths in target:
        level = next((i for i in range(level + 1, len(source)) if source[i] == widths), max(level, 0))
        matches.append(level)
    return matches


def match_layers(target: OneVAEEncoder | OneVAEDecoder, source: OneVAEEncoder | OneVAEDecoder) -> dict[int, int]:
    """Return the source layer of each target layer, as indices into `layers`. Layers without a source are missing.

    Args:
        target: an encoder or a decoder.
        source: a network of the same kind.
    """
    target_levels, source_levels = _levels(target), _levels(source)
    matches = match_levels([level.widths for level in target_levels], [level.widths for level in source_levels])
    layers: dict[int, int] = {}
    for level, match in zip(target_levels, matches, strict=True):
        layers |= zip(level.blocks, source_levels[match].blocks, strict=False)  # additional blocks are new
        resampling = [other.resampling for other in source_levels[match::-1] if other.resampling is not None]
        if level.resampling is not None and resampling:
            layers[level.resampling] = resampling[0]
    return layers


def _levels(network: OneVAEEncoder | OneVAEDecoder) -> list[_Level]:
    """Return the levels of a network, from pixels to latents."""
    levels: list[_Level] = []
    blocks: dict[int, CausalResidualBlock] = {}
    for index, layer in [*enumerate(network.layers), (None, None)]:
        if isinstance(layer, CausalResidualBlock) and index is not None:
            blocks[index] = layer
            continue
        first, last = next(iter(blocks.values())), next(reversed(blocks.values()))
        levels.append(_Level(list(blocks), index, (first.conv1.in_channels, last.conv2.out_channels)))
        blocks = {}
    return levels if isinstance(network, OneVAEEncoder) else levels[::-1]
