"""How ids and latents are stored: bit packing, bfloat16 as 16-bit integers.

Shapes: B samples, N positions, G tokens per position, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from smalti.export.packed_bits import pack_positions, unpack_positions

FLOAT_TYPES = ("float32", "float16", "bfloat16")
"""Types of stored latents."""


def pack_samples(ids: np.ndarray, bits: int) -> np.ndarray:
    """Pack the ids of each sample without unused bits between them; see `smalti.export.packed_bits`.

    Args:
        ids: (B, N, G) integers in [0, 2^bits).
        bits: bits per id.

    Returns:
        (B, ceil(N G bits / 8)) uint8.
    """
    return pack_positions(torch.from_numpy(ids).reshape(len(ids), 1, -1), bits)[:, 0].numpy()


def unpack_sample(packed: np.ndarray, bits: int, shape: tuple[int, int]) -> Tensor:
    """Invert `pack_samples` for one sample.

    Args:
        packed: (bytes,) uint8.
        bits: bits per id.
        shape: (N, G).

    Returns:
        (N, G) int64.

    Raises:
        SmaltiError: the number of bytes is wrong.
    """
    positions, tokens = shape
    return unpack_positions(torch.from_numpy(np.array(packed))[None, None], bits, positions * tokens).reshape(shape)


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
