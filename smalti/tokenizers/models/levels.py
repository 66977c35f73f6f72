"""The resolution levels that a stride requires. Neighboring levels differ by a factor of 2."""

from __future__ import annotations

from smalti.errors import SmaltiError


def count_halvings(stride: int, name: str = "stride") -> int:
    """Return how often a size must be halved to reduce it by a stride: log2(stride).

    Args:
        stride: a power of 2.
        name: name of the stride in the error.

    Raises:
        SmaltiError: `stride` is not a power of 2.
    """
    if stride < 1 or stride & (stride - 1):
        raise SmaltiError(f"{name} is {stride}: give a power of 2, such as 8 or 16.")
    return stride.bit_length() - 1


def fit_multipliers(multipliers: list[int], levels: int) -> list[int]:
    """Return one channel multiplier per level. A shorter list is extended with its last entry; a longer one is cut.

    Args:
        multipliers: channel multipliers, from pixels to latents.
        levels: number of levels.
    """
    return [*multipliers, *multipliers[-1:] * levels][:levels]
