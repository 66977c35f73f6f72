"""One door for all published models: a family says how to build one, and what the publisher calls each weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.importers import wetok
from smalti.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Family:
    """How a publisher's models come in.

    Attributes:
        build: from the publisher's configuration, a tokenizer with fresh weights.
        key: the publisher's name of the weight that we call by this name.
        averaged_key: where the publisher keeps the moving average of the weight at this key.
        dropped: prefixes of keys that belong to training and are left behind.
    """

    build: Callable[[Mapping[str, Any]], Tokenizer]
    key: Callable[[str], str]
    averaged_key: Callable[[str], str]
    dropped: tuple[str, ...]


_FAMILIES = {"wetok": Family(wetok.build, wetok.key, wetok.averaged_key, wetok.DROPPED)}


def families() -> list[str]:
    """The names that `from_published` knows."""
    return sorted(_FAMILIES)


def from_published(family: str, config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> Tokenizer:
    """Build a published model and load its weights, every one.

    Where the checkpoint has the moving average of all weights of a part (encoder, decoder), the average is taken; where
    it has none of them, the live weights are; anything between is an error.

    Args:
        family: a name of `families()`.
        config: the publisher's configuration; the family's file says which keys it reads.
        state_dict: the publisher's keys and tensors.

    Returns:
        A tokenizer in evaluation mode, float32, on the device of the weights (the meta device included).

    Raises:
        SmaltiError: an unknown family, a configuration that describes no model of it, or a key that is missing,
            unexpected or of another shape; the message names the key.
    """
    if family not in _FAMILIES:
        raise SmaltiError(f"There is no importer for '{family}': the families are {', '.join(families())}.")
    if not state_dict:
        raise SmaltiError("The checkpoint holds no weights: give the state dict that its publisher released.")
    source = _FAMILIES[family]
    with torch.device(next(iter(state_dict.values())).device):
        tokenizer = source.build(config)
    expected = tokenizer.state_dict()
    keys = _choose(source, list(expected), state_dict)
    for name, key in keys.items():
        if state_dict[key].shape != expected[name].shape:
            raise SmaltiError(
                f"Key '{key}' has shape {tuple(state_dict[key].shape)}, but the configuration asks for "
                f"{tuple(expected[name].shape)}: checkpoint and configuration are not of one model."
            )
    tokenizer.load_state_dict({name: state_dict[key] for name, key in keys.items()})
    return tokenizer.eval()


def _choose(source: Family, names: list[str], state_dict: Mapping[str, Tensor]) -> dict[str, str]:
    """The key to take for each of our names: the averaged or the live one, whole parts at a time."""
    chosen: dict[str, str] = {}
    known: set[str] = set()
    for part in sorted({name.partition(".")[0] for name in names}):
        live = {name: source.key(name) for name in names if name.startswith(f"{part}.")}
        averaged = {name: source.averaged_key(key) for name, key in live.items()}
        known.update(live.values(), averaged.values())
        use = averaged if any(key in state_dict for key in averaged.values()) else live
        absent = [key for key in use.values() if key not in state_dict]
        if absent:
            more = f", and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise SmaltiError(f"Key '{absent[0]}' is missing from the checkpoint{more}: nothing was loaded.")
        chosen |= use
    for key in state_dict:
        if key not in known and not key.startswith(source.dropped):
            raise SmaltiError(
                f"Key '{key}' is unexpected: the configuration describes a model that has no such weight."
            )
    return chosen
