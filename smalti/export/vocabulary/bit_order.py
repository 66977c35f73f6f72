"""Codes as bits and digits, in a stated order, and sub-codes that a cut of the bits gives.

Little endian: the first channel is the least significant bit (Open-MAGVIT2, WeTok, and this package's quantizers). Big
endian: the first channel is the most significant one (Show-o, vector-quantize-pytorch's LFQ). Radix: mixed-radix digits,
first channel least significant (FSQ).

All arithmetic is in int64, or in Python integers where a code has more than 62 bits: float32 sums are exact only below
2^24.

Shapes: ... any; K codes per position; D bits or digits per code; J sub-codes per position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from smalti.errors import SmaltiError

Order: TypeAlias = Literal["little", "big", "radix"]
Ints: TypeAlias = NDArray[np.int64]

ORDERS = ("little", "big", "radix")
MAX_BITS = 62
"""Number of bits of the largest code in an int64 array."""


def to_digits(codes: Ints, sizes: Sequence[int], order: Order = "radix") -> Ints:
    """Return the digits of codes.

        code = sum over d of digit_d * (product of the sizes before d; after d if big endian)

    Args:
        codes: (...) integers in [0, product of sizes).
        sizes: (D,) number of values of each digit, first channel first.
        order: "big" makes the first digit the most significant one; "little" and "radix" the least significant.

    Returns:
        (..., D) int64, each digit in [0, size).

    Raises:
        SmaltiError: a code is out of range, or the product of the sizes exceeds 2^62.
    """
    places = _place_values(sizes, order)
    codes = check_range(codes, math.prod(sizes))
    return codes[..., None] // places % np.asarray(sizes, dtype=np.int64)


def from_digits(digits: Ints, sizes: Sequence[int], order: Order = "radix") -> Ints:
    """Invert `to_digits`: (..., D) digits to (...) codes.

    Raises:
        SmaltiError: there is another number of digits, a digit is out of range, or the product of the sizes exceeds 2^62.
    """
    places = _place_values(sizes, order)
    digits = np.asarray(digits)
    if digits.shape[-1:] != (len(sizes),):
        raise SmaltiError(
            f"A code has {len(sizes)} digits, not {digits.shape[-1] if digits.ndim else 0}: pass them all."
        )
    for index, size in enumerate(sizes):
        check_range(digits[..., index], size, f"digit {index}")
    return (digits.astype(np.int64) * places).sum(axis=-1)


def to_bits(codes: Ints, bits: int, order: Order = "little") -> NDArray[np.uint8]:
    """Return the bits of codes, first channel first: (...) in [0, 2^bits) to (..., bits).

    Raises:
        SmaltiError: a code is out of range, or `bits` exceeds 62.
    """
    if not 1 <= bits <= MAX_BITS:
        raise SmaltiError(
            f"A code in an int64 array has 1 to {MAX_BITS} bits, not {bits}: split it into several codes."
        )
    codes = check_range(codes, 2**bits)
    shifts = np.arange(bits, dtype=np.int64)
    return (codes[..., None] >> (shifts[::-1] if order == "big" else shifts) & 1).astype(np.uint8)


def from_bits(bits: NDArray[np.uint8], order: Order = "little") -> Ints:
    """Invert `to_bits`: (..., up to 62) to (...) int64.

    Raises:
        SmaltiError: there are more than 62 bits, or one is neither 0 nor 1.
    """
    bits = np.asarray(bits)
    if not 1 <= bits.shape[-1] <= MAX_BITS:
        raise SmaltiError(f"A code in an int64 array has 1 to {MAX_BITS} bits, not {bits.shape[-1]}: split it.")
    shifts = np.arange(bits.shape[-1], dtype=np.int64)
    return (check_range(bits, 2, "bit") << (shifts[::-1] if order == "big" else shifts)).sum(axis=-1)


def split_codes(codes: Ints, sizes: Sequence[int], split_bits: Sequence[int], order: Order) -> Ints:
    """Cut the bits of all codes of a position into sub-codes, in the order of the channels.

    A sub-code may contain bits of two codes: channels are cut, not codes. Sub-codes and codes have the same bit order.

    Args:
        codes: (..., K) int64.
        sizes: (K,) sizes of the codebooks, powers of two.
        split_bits: (J,) bits of each sub-code. They sum to the bits of a position.
        order: bit order.

    Returns:
        (..., J) int64.

    Raises:
        SmaltiError: a size is no power of two, the bits do not add up, or a code is out of range.
    """
    return _recut(codes, bits_of(sizes), split_bits, order)


def join_codes(parts: Ints, sizes: Sequence[int], split_bits: Sequence[int], order: Order) -> Ints:
    """Invert `split_codes`: (..., J) to (..., K)."""
    return _recut(parts, split_bits, bits_of(sizes), order)


def to_integers(codes: Ints, sizes: Sequence[int]) -> list[int]:
    """Return one Python integer of any size per position: sum over k of code_k * product of the sizes before k.

    With little-endian codes of a lookup-free quantizer, the binary digits of the integer are the bits of the position. JSON
    should hold it as a decimal string: many readers lose integers above 2^53.

    Args:
        codes: (N, K) int64.
        sizes: (K,) sizes of the codebooks.
    """
    joint = np.zeros(len(codes), dtype=object)
    for k in reversed(range(len(sizes))):
        joint = joint * sizes[k] + check_range(codes[:, k], sizes[k])
    return [int(value) for value in joint]


def from_integers(integers: Sequence[int], sizes: Sequence[int]) -> Ints:
    """Invert `to_integers`: N Python integers to (N, K) int64.

    Raises:
        SmaltiError: an integer is out of range.
    """
    total = math.prod(sizes)
    if any(not 0 <= value < total for value in integers):
        raise SmaltiError(f"An integer of a position is not in [0, {total}): it is that of another tokenizer.")
    columns, rest = [], np.array([int(value) for value in integers], dtype=object)
    for size in sizes:
        columns.append((rest % size).astype(np.int64))
        rest = rest // size
    return np.stack(columns, axis=-1)


def bits_of(sizes: Sequence[int]) -> list[int]:
    """Return the number of bits of each codebook.

    Raises:
        SmaltiError: a size is no power of two.
    """
    for size in sizes:
        if size < 2 or size & (size - 1):
            raise SmaltiError(f"A codebook of {size} codewords has no whole number of bits: do not split its bits.")
    return [size.bit_length() - 1 for size in sizes]


def check_range(codes: NDArray[np.integer], size: int, name: str = "code") -> Ints:
    """Return codes as int64, of any shape.

    Raises:
        SmaltiError: they are no integers, or one is not in [0, size).
    """
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iub":
        raise SmaltiError(f"Codes must be integers, not {codes.dtype}: pass the ids themselves.")
    if codes.size and (int(codes.min()) < 0 or int(codes.max()) >= size):
        wrong = codes.min() if codes.min() < 0 else codes.max()
        raise SmaltiError(f"A {name} is {wrong}, but must be in [0, {size - 1}]: it is that of another tokenizer.")
    return codes.astype(np.int64, copy=False)


def _place_values(sizes: Sequence[int], order: Order) -> Ints:
    if math.prod(sizes) > 2**MAX_BITS:
        raise SmaltiError(
            f"{math.prod(sizes)} codewords do not fit into an int64 array: split a position into more codes."
        )
    if order == "big":
        return np.array([math.prod(sizes[d + 1 :]) for d in range(len(sizes))], dtype=np.int64)
    return np.array([math.prod(sizes[:d]) for d in range(len(sizes))], dtype=np.int64)


def _recut(codes: Ints, widths: Sequence[int], new_widths: Sequence[int], order: Order) -> Ints:
    if sum(widths) != sum(new_widths):
        raise SmaltiError(
            f"{list(new_widths)} are {sum(new_widths)} bits, but a position has {sum(widths)}: change split_bits."
        )
    codes = np.asarray(codes)
    if codes.shape[-1:] != (len(widths),):
        raise SmaltiError(
            f"A position has {len(widths)} codes, not {codes.shape[-1] if codes.ndim else 0}: pass them all."
        )
    bits = np.concatenate([to_bits(codes[..., k], width, order) for k, width in enumerate(widths)], axis=-1)
    ends = np.cumsum(new_widths)[:-1]
    return np.stack([from_bits(part, order) for part in np.split(bits, ends, axis=-1)], axis=-1)
