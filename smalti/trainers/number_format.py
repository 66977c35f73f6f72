"""Short texts for large numbers."""

from __future__ import annotations


def abbreviate(number: int) -> str:
    """Return a number with three digits and a unit, such as "1.5 M"."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def format_bytes(size: int) -> str:
    """Return a size with a unit, such as "1.5 GB"."""
    return f"{abbreviate(size)}B" if size >= 1000 else f"{size} bytes"
