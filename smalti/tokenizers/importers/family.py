"""What an importer says of a family of published models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from smalti.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a publisher's models come in.

    Attributes:
        build: from the publisher's configuration, a tokenizer with fresh weights.
        keys: the publisher's key of each weight of a tokenizer, by our name.
        dropped: prefixes of keys that belong to training and are left behind.
        averaged_key: where the publisher keeps the moving average of the weight at this key; None: nowhere.
        optional: our names of what a checkpoint may lack altogether; it then keeps its fresh value.
        prefix: of the model's keys in files that hold other models too, whose keys are then left behind.
    """

    build: Callable[[Mapping[str, Any]], Tokenizer]
    keys: Callable[[Tokenizer], dict[str, str]]
    dropped: tuple[str, ...] = ()
    averaged_key: Callable[[str], str] | None = None
    optional: tuple[str, ...] = ()
    prefix: str | None = None


def each(key: Callable[[str], str]) -> Callable[[Tokenizer], dict[str, str]]:
    """`Family.keys` where a key follows from the name alone."""
    return lambda tokenizer: {name: key(name) for name in tokenizer.state_dict()}
