"""Networks as lists of blocks: what LTX-Video's lists (arXiv 2501.00103) may hold, and the layers they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from smalti.errors import SmaltiError
from smalti.tokenizers.models.ltx.blocks import (
    DepthToSpaceUpsample,
    PixelNormBlock,
    ResidualStage,
    SpaceToDepthDownsample,
    Stride,
    StridedDownsample,
)
from smalti.tokenizers.models.ltx.replication_pad_conv import Padding

BlockList = list[list[Any]]
"""[name, options] of each block, from pixels to positions (a decoder runs from the last to the first)."""

DEFAULT_BLOCKS: BlockList = [
    ["res_x", {"num_layers": 4}],
    ["compress_all", {}],
    ["res_x_y", {}],
    ["res_x", {"num_layers": 3}],
    ["compress_all", {}],
    ["res_x_y", {}],
    ["res_x", {"num_layers": 3}],
    ["compress_all", {}],
    ["res_x", {"num_layers": 3}],
    ["res_x", {"num_layers": 4}],
]
"""Those of LTX-Video 0.9.0, encoder and decoder."""

_STRIDES: dict[str, Stride] = {
    "compress_all": (2, 2, 2),
    "compress_time": (2, 1, 1),
    "compress_space": (1, 2, 2),
}

Options = Mapping[str, Mapping[str, int]]
"""The options of each block by name, with their defaults."""

ENCODER_OPTIONS: Options = {
    "res_x": {"num_layers": 1},
    "res_x_y": {"multiplier": 2},
    **{name: {} for name in _STRIDES},
    **{f"{name}_res": {"multiplier": 2} for name in _STRIDES},
}

DECODER_OPTIONS: Options = {
    "res_x": {"num_layers": 1, "inject_noise": False},
    "res_x_y": {"multiplier": 2, "inject_noise": False},
    **{name: {"multiplier": 1, "residual": False} for name in _STRIDES},
}


@dataclass(frozen=True)
class BlockSpec:
    """One block of a list.

    Attributes:
        name: what it is.
        num_layers: residual blocks.
        multiplier: how many times the channels grow from pixels to positions.
        inject_noise: its residual blocks add noise.
        residual: it has a path beside its convolution.
    """

    name: str
    num_layers: int = 1
    multiplier: int = 1
    inject_noise: bool = False
    residual: bool = False

    @property
    def stride(self) -> Stride:
        """Positions along (T, H, W) that become one."""
        return _STRIDES.get(self.name.removesuffix("_res"), (1, 1, 1))


def parse_blocks(blocks: BlockList | None, known: Options) -> list[BlockSpec]:
    """The blocks of a list; None: of 0.9.0's.

    Raises:
        SmaltiError: no list of [name, options], an unknown block or option, or a number below 1.
    """
    return [_read(block, known) for block in (DEFAULT_BLOCKS if blocks is None else blocks)]


def _read(block: Any, known: Options) -> BlockSpec:
    if not (isinstance(block, list | tuple) and len(block) == 2 and isinstance(block[1], Mapping)):
        raise SmaltiError(f"A block is [name, options], like [res_x, {{num_layers: 4}}], not {block!r}.")
    name, options = block
    if name not in known:
        raise SmaltiError(f"There is no block '{name}' here: the blocks are {', '.join(known)}.")
    defaults = known[name]
    for option, value in options.items():
        if option not in defaults:
            raise SmaltiError(f"{name} has no option '{option}': its options are {', '.join(defaults) or 'none'}.")
        if isinstance(defaults[option], bool):
            if not isinstance(value, bool):
                raise SmaltiError(f"{option} of {name} is {value!r}: give it true or false.")
        elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SmaltiError(f"{option} of {name} is {value!r}: give it a whole number of at least 1.")
    return BlockSpec(name, **{**defaults, **options})


def total_stride(blocks: list[BlockSpec], patch: int) -> Stride:
    """Pixels a position spans along (T, H, W)."""
    time, height, width = (
        math.prod(axis) for axis in zip(*(block.stride for block in blocks), (1, patch, patch), strict=True)
    )
    return time, height, width


def build_encoder_block(block: BlockSpec, width: int, padding: Padding) -> nn.Module:
    """A layer of an encoder, from `width` channels to `multiplier` times as many.

    Raises:
        SmaltiError: channels that cannot be shared out.
    """
    if block.name == "res_x":
        return ResidualStage(width, block.num_layers, causal=True, padding=padding)
    wider = width * block.multiplier
    if block.name == "res_x_y":
        return PixelNormBlock(width, wider, causal=True, padding=padding)
    if not block.name.endswith("_res"):
        return StridedDownsample(width, block.stride, padding=padding)
    _check(wider, math.prod(block.stride), block)
    _check(width * math.prod(block.stride), wider, block)
    return SpaceToDepthDownsample(width, wider, block.stride, padding=padding)


def build_decoder_block(block: BlockSpec, width: int, factor: int, *, timed: bool, causal: bool, padding: Padding) -> nn.Module:
    """A layer of a decoder, from `width` channels to `width / multiplier`.

    Args:
        block: what it is.
        width: a multiple of its multiplier.
        factor: rows and columns at its input that one of the latent became.
        timed: residual blocks are told the time.
        causal: see `ReplicationPadConv3d`.
        padding: see `ReplicationPadConv3d`.

    Raises:
        SmaltiError: channels that cannot be shared out.
    """
    noise_factor = factor if block.inject_noise else None
    if block.name == "res_x":
        return ResidualStage(
            width, block.num_layers, causal=causal, padding=padding, timed=timed, noise_factor=noise_factor
        )
    if block.name == "res_x_y":
        return PixelNormBlock(
            width, width // block.multiplier, causal=causal, padding=padding, noise_factor=noise_factor
        )
    if block.residual:
        _check(width, math.prod(block.stride), block)
        _check(math.prod(block.stride), block.multiplier, block)
    return DepthToSpaceUpsample(
        width, block.stride, multiplier=block.multiplier, residual=block.residual, causal=causal, padding=padding
    )


def _check(number: int, by: int, block: BlockSpec) -> None:
    if number % by:
        raise SmaltiError(f"{block.name} cannot share out {number} among {by}: change channels or its multiplier.")
