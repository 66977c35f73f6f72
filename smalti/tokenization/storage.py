"""How ids and latents are stored: the smallest safe type, bit packing, bfloat16 as 16-bit integers.

Shapes: N positions, G tokens per position, C channels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smalti.errors import SmaltiError

FLOAT_TYPES = ("float32", "float16", "bfloat16")
"""Types of stored latents."""

ID_TYPES = ("uint8", "uint16", "uint32", "int64")
"""Types of stored ids, the smallest first."""


def smallest_id_type(num_values: int) -> str:
    """Return the smallest type that holds every id in [0, num_values).

    >>> smallest_id_type(256), smallest_id_type(257), smallest_id_type(2**32 + 1)
    ('uint8', 'uint16', 'int64')

    Raises:
        SmaltiError: no type holds them.
    """
    for name in ID_TYPES:
        if num_values - 1 <= np.iinfo(name).max:
            return name
    raise SmaltiError(
        f"A token has {num_values} values, more than 2^63: no integer type holds them; use a quantizer with more "
        "tokens per position."
    )


def bits_per_id(num_values: int) -> int:
    """Return the number of bits that hold every id in [0, num_values)."""
    return max(1, (num_values - 1).bit_length())


def pack_ids(ids: np.ndarray, bits: int) -> np.ndarray:
    """Pack ids to bytes: the ids one after another, each as `bits` bits, the lowest bit first; zeros at the end.

    Args:
        ids: integers in [0, 2^bits), of any shape, in C order.
        bits: bits per id, 1 to 63.

    Returns:
        (ceil(bits * number of ids / 8),) uint8.
    """
    if bits == 8:
        return ids.astype(np.uint8).ravel()
    values = ids.astype(np.int64).reshape(-1, 1)
    return np.packbits(((values >> np.arange(bits)) & 1).astype(np.uint8).ravel(), bitorder="little")


def unpack_ids(packed: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Invert `pack_ids`.

    Returns:
        int64 of the given shape.

    Raises:
        ValueError: the number of bytes is not that of the shape.
    """
    count = math.prod(shape)
    if packed.size != -(-count * bits // 8):
        raise ValueError(f"{packed.size} bytes for {count} ids of {bits} bits")
    digits = np.unpackbits(packed.ravel(), count=count * bits, bitorder="little").reshape(count, bits)
    return (digits.astype(np.int64) << np.arange(bits)).sum(axis=1).reshape(shape)


def latents_to_numpy(latents: Tensor) -> np.ndarray:
    """Return latents on the CPU as an array; bfloat16, which NumPy does not have, as uint16 with the same bits."""
    if latents.dtype == torch.bfloat16:
        return latents.view(torch.uint16).numpy()
    return latents.numpy()


def latents_from_numpy(array: np.ndarray, dtype: str) -> Tensor:
    """Invert `latents_to_numpy`. The array is copied.

    Args:
        array: the stored array.
        dtype: name of the type of the latents.
    """
    latents = torch.from_numpy(np.array(array))
    return latents.view(torch.bfloat16) if dtype == "bfloat16" else latents


def numpy_type(dtype: str) -> np.dtype[Any]:
    """Return the little-endian NumPy type in which arrays of a type are stored."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")
