"""The smallest safe integer type of stored ids."""

from __future__ import annotations

from smalti.errors import SmaltiError

_MAXIMUM = {"uint8": 2**8 - 1, "uint16": 2**16 - 1, "uint32": 2**32 - 1, "int64": 2**63 - 1}
"""Types of stored ids and their largest values, the smallest type first."""


def smallest_id_type(num_values: int) -> str:
    """Return the smallest type that holds every id in [0, num_values).

    >>> smallest_id_type(256), smallest_id_type(257), smallest_id_type(2**32 + 1)
    ('uint8', 'uint16', 'int64')

    Raises:
        SmaltiError: no type holds them.
    """
    for name, maximum in _MAXIMUM.items():
        if num_values - 1 <= maximum:
            return name
    raise SmaltiError(
        f"A token has {num_values} values, more than 2^63: no integer type holds them; use a quantizer with more "
        "tokens per position."
    )
