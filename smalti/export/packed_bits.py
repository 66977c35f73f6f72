"""Ids without unused bits: the bits of a position as bytes.

A position of G ids of b bits takes ceil(G b / 8) bytes. Bits are little endian: bit i of id g is bit g b + i of the
position, and bit j of a position is bit j % 8 of byte j // 8. For ids of 8 bits the bytes are the ids. This holds positions
of any number of bits exactly, such as 64, 128 or 256, which no integer type does.

Shapes: B batch; N positions; G tokens per position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.errors import SmaltiError

MAX_BITS = 62
"""Number of bits of the largest id."""


def bits_per_id(codebook_size: int) -> int:
    """Return the number of bits of an id in [0, codebook_size)."""
    return max((codebook_size - 1).bit_length(), 1)


def pack_positions(ids: Tensor, bits: int) -> Tensor:
    """Return the bits of each position as bytes.

    Args:
        ids: (B, N, G) integers in [0, 2^bits).
        bits: bits per id, in [1, 62].

    Returns:
        (B, N, ceil(G bits / 8)) uint8. Unused bits of the last byte are 0.

    Raises:
        SmaltiError: an id is out of range, or `bits` is.
    """
    _check_bits(bits)
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= 2**bits):
        raise SmaltiError(
            f"The ids range from {int(ids.min())} to {int(ids.max())}, but have {bits} bits: state more bits."
        )
    digits = (ids.long().unsqueeze(-1) >> torch.arange(bits, device=ids.device) & 1).flatten(-2)
    digits = torch.nn.functional.pad(digits, (0, -digits.shape[-1] % 8))
    return (digits.unflatten(-1, (-1, 8)) << torch.arange(8, device=ids.device)).sum(-1).to(torch.uint8)


def unpack_positions(packed: Tensor, bits: int, tokens_per_position: int) -> Tensor:
    """Invert `pack_positions`.

    Args:
        packed: (B, N, ceil(G bits / 8)) uint8.
        bits: bits per id.
        tokens_per_position: number of ids G of a position.

    Returns:
        (B, N, G) int64.

    Raises:
        SmaltiError: the number of bytes is wrong, or an unused bit is not 0.
    """
    _check_bits(bits)
    used = bits * tokens_per_position
    if packed.shape[-1] != -(-used // 8):
        raise SmaltiError(
            f"{tokens_per_position} ids of {bits} bits take {-(-used // 8)} bytes, not {packed.shape[-1]}."
        )
    digits = (packed.long().unsqueeze(-1) >> torch.arange(8, device=packed.device) & 1).flatten(-2)
    if digits[..., used:].any():
        raise SmaltiError("An unused bit of a packed position is not 0: it has another number of bits.")
    digits = digits[..., :used].unflatten(-1, (tokens_per_position, bits))
    return (digits << torch.arange(bits, device=packed.device)).sum(-1)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise SmaltiError(f"An id has 1 to {MAX_BITS} bits, not {bits}: split the bits of a position into more ids.")
