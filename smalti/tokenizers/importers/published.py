"""One door for all published models: a family says how to build one, and what the publisher calls each weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.importers import diffusers, ltx, onevae, wetok
from smalti.tokenizers.importers.family import Family, each
from smalti.tokenizers.tokenizer import Tokenizer

_FAMILIES = {
    "wetok": Family(build=wetok.build, keys=each(wetok.key), dropped=wetok.DROPPED, averaged_key=wetok.averaged_key),
    "onevae": Family(
        build=onevae.build, keys=each(onevae.key), dropped=onevae.DROPPED, averaged_key=onevae.averaged_key
    ),
    "wan": Family(build=onevae.build_wan, keys=each(onevae.wan_key)),
    "ltx": Family(build=ltx.build, keys=each(ltx.key), dropped=ltx.DROPPED, optional=ltx.OPTIONAL, prefix=ltx.PREFIX),
}


def families() -> list[str]:
    """The names that `from_published` knows."""
    return sorted([*_FAMILIES, diffusers.NAME])


def family_of(name: str, config: Mapping[str, Any]) -> Family:
    """The family of this name; diffusers' models are of many, which their configuration tells apart.

    Raises:
        SmaltiError: an unknown family, or a class of diffusers that has no importer.
    """
    if name == diffusers.NAME:
        return diffusers.family_of(config)
    if name not in _FAMILIES:
        raise SmaltiError(f"There is no importer for '{name}': the families are {', '.join(families())}.")
    return _FAMILIES[name]


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
    source = family_of(family, config)
    if not state_dict:
        raise SmaltiError("The checkpoint holds no weights: give the state dict that its publisher released.")
    state_dict = _own(source.prefix, state_dict)
    with torch.device(next(iter(state_dict.values())).device):
        tokenizer = source.build(config)
    expected = tokenizer.state_dict()
    keys = _choose(source, source.keys(tokenizer), state_dict)
    for name, key in keys.items():
        if state_dict[key].shape != expected[name].shape:
            raise SmaltiError(
                f"Key '{key}' has shape {tuple(state_dict[key].shape)}, but the configuration asks for "
                f"{tuple(expected[name].shape)}: checkpoint and configuration are not of one model."
            )
    tokenizer.load_state_dict(expected | {name: state_dict[key] for name, key in keys.items()})
    return tokenizer.eval()


def _own(prefix: str | None, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The model's weights without the prefix, where the file has them under it, beside those of other models."""
    if prefix is None or not any(key.startswith(prefix) for key in state_dict):
        return state_dict
    return {key.removeprefix(prefix): tensor for key, tensor in state_dict.items() if key.startswith(prefix)}


def _choose(source: Family, keys: dict[str, str], state_dict: Mapping[str, Tensor]) -> dict[str, str]:
    """The key to take for each of our names: the averaged or the live one, whole parts at a time."""
    if not any(keys[name] in state_dict for name in source.optional):
        keys = {name: key for name, key in keys.items() if name not in source.optional}
    chosen: dict[str, str] = {}
    known = set(keys.values())
    for part in sorted({name.partition(".")[0] for name in keys}):
        use = {name: key for name, key in keys.items() if name.startswith(f"{part}.")}
        if source.averaged_key is not None:
            averaged = {name: source.averaged_key(key) for name, key in use.items()}
            known.update(averaged.values())
            use = averaged if any(key in state_dict for key in averaged.values()) else use
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
