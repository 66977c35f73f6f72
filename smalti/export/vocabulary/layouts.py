"""Layouts: how the K codes of every position become steps of a sequence, and the exact inverse.

Shapes: N positions in raster order; K codes per position; S steps of a sequence.

| layout | sequence |
|---|---|
| flat | (N K,): the codes of a position follow each other |
| depth | (N, K): one row of codes per step; a small head predicts them one after another |
| codebook-major | (K, N): one list per codebook |
| delayed | (K, 1 + N + max delay): codebook k starts 1 + delay_k steps late; all other entries are a fill id (MusicGen) |
| coarse-first | (K, 1 + 2 N): codebook 0 at all positions, then the others in parallel |
| unrolled | (K, 1 + N K): one codebook per step, the others are the fill id |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smalti.errors import SmaltiError
from smalti.export.vocabulary.bit_order import Ints


def delay(codes: Ints, delays: Sequence[int], fill: int) -> Ints:
    """Delay the codebooks of a sequence (MusicGen, arXiv 2306.05284, section 2.2).

    Args:
        codes: (N, K).
        delays: (K,) delay of each codebook in steps. All zero is the parallel pattern.
        fill: id of the entries without a code, which is not the id of a code.

    Returns:
        (K, 1 + N + max delay). Column 0 is all `fill`.

    Raises:
        SmaltiError: the number of delays is not K, or one is negative.
    """
    _check_delays(codes.shape[1], delays)
    result = np.full((codes.shape[1], 1 + len(codes) + max(delays)), fill, dtype=np.int64)
    for k, shift in enumerate(delays):
        result[k, 1 + shift : 1 + shift + len(codes)] = codes[:, k]
    return result


def undelay(sequence: Ints, delays: Sequence[int], fill: int) -> Ints:
    """Invert `delay`: (K, S) to (N, K).

    Raises:
        SmaltiError: there are too few steps, or `fill` is missing where there is no code.
    """
    _check_delays(len(sequence), delays)
    positions = sequence.shape[1] - 1 - max(delays)
    if positions < 0:
        raise SmaltiError(f"A sequence with these delays has more than {max(delays)} steps, not {sequence.shape[1]}.")
    codes = np.stack([sequence[k, 1 + shift : 1 + shift + positions] for k, shift in enumerate(delays)], axis=1)
    _check_fill(sequence, delay(codes, delays, fill))
    return codes


def delayed_prompt(codes: Ints, delays: Sequence[int], fill: int, length: int) -> Ints:
    """Return what a language model starts from that generates delayed codebooks.

    Args:
        codes: (P, K) codes of the first positions.
        delays: (K,).
        fill: id of the entries without a code.
        length: number of steps S of the whole sequence.

    Returns:
        (K, S): the fill id, the given codes, and -1 where a code is to be generated. If S is too short for one code of
        every codebook before the first one ends, S < 2 max delay + 1, all entries are -1 (transformers' behavior).

    Raises:
        SmaltiError: the codes do not fit.
    """
    _check_delays(codes.shape[1], delays)
    if length < 2 * max(delays) + 1:
        return np.full((codes.shape[1], length), -1, dtype=np.int64)
    positions = length - 1 - max(delays)
    if len(codes) > positions:
        raise SmaltiError(f"A prompt of {len(codes)} steps does not fit into {length} steps: increase the length.")
    open_positions = np.full((positions - len(codes), codes.shape[1]), -1, dtype=np.int64)
    return delay(np.concatenate([codes, open_positions]), delays, fill)


def coarse_first(codes: Ints, fill: int) -> Ints:
    """Put codebook 0 of all positions before the others: (N, K) to (K, 1 + 2 N), or (1, 1 + N) if K is 1."""
    return delay(codes, _coarse_first_delays(codes.shape[1], len(codes)), fill)


def invert_coarse_first(sequence: Ints, fill: int) -> Ints:
    """Invert `coarse_first`: (K, S) to (N, K).

    Raises:
        SmaltiError: the number of steps is wrong, or `fill` is missing where there is no code.
    """
    steps = sequence.shape[1] - 1
    positions = steps if len(sequence) == 1 else steps // 2
    if len(sequence) > 1 and steps % 2:
        raise SmaltiError(f"A coarse-first sequence has an odd number of steps, not {sequence.shape[1]}.")
    return undelay(sequence, _coarse_first_delays(len(sequence), positions), fill)


def unroll(codes: Ints, fill: int) -> Ints:
    """Put every code into a step of its own: (N, K) to (K, 1 + N K), with `fill` in all other entries."""
    positions, books = codes.shape
    result = np.full((books, 1 + positions * books), fill, dtype=np.int64)
    for k in range(books):
        result[k, 1 + k :: books] = codes[:, k]
    return result


def invert_unroll(sequence: Ints, fill: int) -> Ints:
    """Invert `unroll`: (K, S) to (N, K).

    Raises:
        SmaltiError: the number of steps is wrong, or `fill` is missing where there is no code.
    """
    books, steps = sequence.shape
    if (steps - 1) % books:
        raise SmaltiError(
            f"An unrolled sequence of {books} codebooks has 1 + a multiple of {books} steps, not {steps}."
        )
    codes = np.stack([sequence[k, 1 + k :: books] for k in range(books)], axis=1)
    _check_fill(sequence, unroll(codes, fill))
    return codes


def to_patches(codes: Ints, patch: int) -> Ints:
    """Reorder (*grid, K) patch by patch, row-major outside and inside. The shape does not change."""
    if patch == 1:
        return codes
    *lead, h, w, k = codes.shape
    blocks = codes.reshape(-1, h // patch, patch, w // patch, patch, k).swapaxes(2, 3)
    return blocks.reshape(*lead, h, w, k)


def from_patches(codes: Ints, patch: int) -> Ints:
    """Invert `to_patches`."""
    if patch == 1:
        return codes
    *lead, h, w, k = codes.shape
    blocks = codes.reshape(-1, h // patch, w // patch, patch, patch, k).swapaxes(2, 3)
    return blocks.reshape(*lead, h, w, k)


def _coarse_first_delays(books: int, positions: int) -> list[int]:
    return [0] + [positions] * (books - 1)


def _check_delays(books: int, delays: Sequence[int]) -> None:
    if len(delays) != books or min(delays, default=-1) < 0:
        raise SmaltiError(f"{books} codebooks need {books} delays of at least 0, not {list(delays)}.")


def _check_fill(sequence: Ints, expected: Ints) -> None:
    if not np.array_equal(sequence, expected):
        raise SmaltiError("The sequence does not have its fill id where its layout has no code: it has another layout.")
