"""Deriving seeds: for shuffling, for augmentation, and for the noise of training steps and decoders."""

from __future__ import annotations

import hashlib
import struct


def derive_seed(*parts: int | str) -> int:
    """Hash integers and strings to a seed in [0, 2^63), the same on every machine and in every process.

    Similar inputs give unrelated seeds: consecutive epochs or indices draw independent random numbers.

    Args:
        parts: what the seed depends on, such as a base seed, the epoch and the index of a sample. Integers must fit into
            64 bits.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        # File names need not be valid UTF-8.
        digest.update(struct.pack("<q", part) if isinstance(part, int) else part.encode(errors="surrogateescape"))
    return int.from_bytes(digest.digest(), "little") >> 1
