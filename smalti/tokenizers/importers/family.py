"""The description of a family of published models, and helpers to write one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from smalti.tokenizers.tokenizer import Tokenizer

PublishedConfig = Mapping[str, Any]
"""The configuration that the publisher released with a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How to import the models of one publisher.

    A file in this package that assigns a family to `FAMILY` adds a release; nothing else has to be edited.

    Attributes:
        name: name in `from_published` and on the command line.
        description: the release in one line.
        build: builds a tokenizer with random weights from the publisher's configuration. Raises a `SmaltiError` if the
            configuration describes no model of the family.
        keys: returns the publisher's key of each weight of a tokenizer, by the weight's name in Smalti; see `map_names`.
        ignored_prefixes: prefixes of keys that are used in training only and are not loaded.
        unused_keys: returns further keys that a checkpoint of a tokenizer may have and that are not loaded, because its
            publisher's network computes nothing with them.
        ema_key: returns the key of the moving average of the weight with a given key; None if there are no averages.
        mixed_ema: whether a checkpoint may have moving averages of only some weights of a part, as its publisher's code
            allows. The trained weights are then loaded for the others.
        optional: names of weights that a checkpoint may lack, all of them together. They keep their initial values.
        prefix: prefix of the keys of the model in files that also contain other models, whose keys are not loaded.
    """

    name: str
    description: str
    build: Callable[[PublishedConfig], Tokenizer]
    keys: Callable[[Tokenizer], dict[str, str]]
    ignored_prefixes: tuple[str, ...] = ()
    unused_keys: Callable[[Tokenizer], set[str]] = lambda _: set()
    ema_key: Callable[[str], str] | None = None
    mixed_ema: bool = False
    optional: tuple[str, ...] = ()
    prefix: str | None = None


def map_names(to_key: Callable[[str], str]) -> Callable[[Tokenizer], dict[str, str]]:
    """Return `Family.keys` for a publisher whose keys depend only on the names of the weights.

    Args:
        to_key: returns the publisher's key of a weight, given its name in Smalti.
    """
    return lambda tokenizer: {name: to_key(name) for name in tokenizer.state_dict()}


def substitute(name: str, rules: Iterable[tuple[str, str]]) -> str:
    """Apply regular expression substitutions (pattern, replacement) to a name, in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


LIT_EMA_STATE = ("model_ema.decay", "model_ema.num_updates")
"""What `LitEma`, latent diffusion's moving average, stores besides the averages."""


def lit_ema_key(key: str) -> str:
    """Return the key under which `LitEma`, latent diffusion's moving average, stores the average of a weight."""
    return "model_ema." + key.replace(".", "")
