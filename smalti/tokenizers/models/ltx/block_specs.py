"""Parsing the lists of blocks that describe LTX-Video's networks (arXiv 2501.00103)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smalti.errors import SmaltiError
from smalti.tokenizers.models.ltx.replication_pad_conv import Stride

BlockList = list[list[Any]]
"""[name, options] of each block, from pixels to latents. A decoder runs the blocks in reverse order."""

DEFAULT_BLOCKS: BlockList = [
    ["res_x", {"num_layers": 4}],
    ["compress_all", {}],
    ["res_x_y", {"multiplier": 2}],
    ["res_x", {"num_layers": 3}],
    ["compress_all", {}],
    ["res_x_y", {"multiplier": 2}],
    ["res_x", {"num_layers": 3}],
    ["compress_all", {}],
    ["res_x", {"num_layers": 3}],
    ["res_x", {"num_layers": 4}],
]
"""Blocks of the encoder and of the decoder in LTX-Video 0.9.0."""

_STRIDES: dict[str, Stride] = {
    "compress_all": (2, 2, 2),
    "compress_time": (2, 1, 1),
    "compress_space": (1, 2, 2),
}

Options = Mapping[str, Mapping[str, int]]
"""Default values of the options of each block, by block name."""

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
    """The specification of one block.

    Attributes:
        name: the kind of block.
        num_layers: number of residual blocks.
        multiplier: channels on the latent side divided by channels on the pixel side.
        inject_noise: whether its residual blocks inject noise.
        residual: whether its convolution has a residual connection.
    """

    name: str
    num_layers: int = 1
    multiplier: int = 1
    inject_noise: bool = False
    residual: bool = False

    @property
    def stride(self) -> Stride:
        """Stride along (T, H, W)."""
        return _STRIDES.get(self.name.removesuffix("_res"), (1, 1, 1))


def parse_blocks(blocks: BlockList | None, known: Options) -> list[BlockSpec]:
    """Parse and check a list of blocks.

    Args:
        blocks: the list; None for `DEFAULT_BLOCKS`.
        known: the allowed blocks and options: `ENCODER_OPTIONS` or `DECODER_OPTIONS`.

    Raises:
        SmaltiError: an item is not [name, options], a block or an option is unknown, or a number is below 1.
    """
    return [_parse_block(block, known) for block in (DEFAULT_BLOCKS if blocks is None else blocks)]


def total_stride(blocks: list[BlockSpec], patch: int) -> Stride:
    """Return the stride of a network along (T, H, W) in pixels: the product of its blocks' strides and the patch size."""
    strides = [block.stride for block in blocks]
    time, height, width = (math.prod(axis) for axis in zip(*strides, (1, patch, patch), strict=True))
    return time, height, width


def _parse_block(block: Any, known: Options) -> BlockSpec:
    if not (isinstance(block, list | tuple) and len(block) == 2 and isinstance(block[1], Mapping)):
        raise SmaltiError(f"A block is [name, options], such as [res_x, {{num_layers: 4}}], not {block!r}.")
    name, options = block
    if name not in known:
        raise SmaltiError(f"There is no block '{name}': give one of {', '.join(known)}.")
    defaults = known[name]
    for option, value in options.items():
        if option not in defaults:
            raise SmaltiError(f"{name} has no option '{option}': its options are {', '.join(defaults) or 'none'}.")
        if isinstance(defaults[option], bool):
            if not isinstance(value, bool):
                raise SmaltiError(f"{option} of {name} is {value!r}: set it to true or false.")
        elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SmaltiError(f"{option} of {name} is {value!r}: set it to an integer of at least 1.")
    return BlockSpec(name, **{**defaults, **options})
