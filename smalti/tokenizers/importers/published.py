"""Building a published model and loading its weights, all of them or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.importers.family import Family, PublishedConfig
from smalti.tokenizers.importers.registry import find_family
from smalti.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class ImportReport:
    """What an import did with every weight. Weights are never sliced: one of another shape is an error.

    Attributes:
        taken: names of the weights of the tokenizer that were loaded.
        new: names of weights that the checkpoint does not have, such as statistics of the latents that are not known.
        dropped: keys of the checkpoint that the tokenizer does not use, such as those of a discriminator.
        parameters: number of the elements that were loaded.
    """

    taken: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    parameters: int

    def __str__(self) -> str:
        """Return a sentence per kind."""
        parts = (
            f"taken: {len(self.taken)} weights with {self.parameters:,} elements",
            "sliced: none",
            f"new: {_shorten(self.new)}",
            f"dropped: {_shorten(self.dropped)}",
        )
        return "; ".join(parts)


def _shorten(names: tuple[str, ...]) -> str:
    """Return the number of names and the first ones."""
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "none"


def from_published(family: str | Family, config: PublishedConfig, state_dict: Mapping[str, Tensor]) -> Tokenizer:
    """Build a published model and load all of its weights.

    If the checkpoint has the moving averages of all weights of a part (encoder, decoder), these are loaded. If it has none
    of them, the trained weights are loaded. Anything in between is an error, unless the family allows it (`mixed_ema`).

    Args:
        family: one of `families()`, or a `Family` of your own.
        config: the publisher's configuration. The module of the family documents the keys that are read.
        state_dict: the publisher's keys and tensors.

    Returns:
        A tokenizer in evaluation mode, float32, on the device of the weights (also the meta device).

    Raises:
        SmaltiError: the family is unknown, the configuration describes no model of it, or a key is missing, is unexpected
            or has another shape. The message names the key.
    """
    return import_published(family, config, state_dict)[0]


def import_published(
    family: str | Family, config: PublishedConfig, state_dict: Mapping[str, Tensor]
) -> tuple[Tokenizer, ImportReport]:
    """Return what `from_published` returns, and what happened to every weight."""
    if isinstance(family, str):
        family = find_family(family)
    if not state_dict:
        raise SmaltiError("The checkpoint has no weights: use the state dict that its publisher released.")
    state_dict = _strip_prefix(state_dict, family.prefix)
    with torch.device(next(iter(state_dict.values())).device):
        tokenizer = family.build(config)
    expected = tokenizer.state_dict()
    unused = family.unused_keys(tokenizer)
    used = {key: weight for key, weight in state_dict.items() if key not in unused}
    keys = _select_keys(family, family.keys(tokenizer), used)
    for name, key in keys.items():
        if state_dict[key].shape != expected[name].shape:
            raise SmaltiError(
                f"Key '{key}' has shape {tuple(state_dict[key].shape)}, but the configuration needs "
                f"{tuple(expected[name].shape)}: checkpoint and configuration belong to different models."
            )
    tokenizer.load_state_dict(expected | {name: state_dict[key] for name, key in keys.items()})
    names = {name: weight for name, weight in expected.items() if name in keys}
    report = ImportReport(
        taken=tuple(names),
        new=tuple(name for name in expected if name not in keys),
        dropped=tuple(sorted(state_dict.keys() - set(keys.values()))),
        parameters=sum(weight.numel() for weight in names.values()),
    )
    return tokenizer.eval(), report


def _strip_prefix(state_dict: Mapping[str, Tensor], prefix: str | None) -> Mapping[str, Tensor]:
    """Return the weights under the prefix, without it; all weights if there is no prefix or no key has it."""
    if prefix is None or not any(key.startswith(prefix) for key in state_dict):
        return state_dict
    return {key.removeprefix(prefix): tensor for key, tensor in state_dict.items() if key.startswith(prefix)}


def _select_keys(family: Family, keys: dict[str, str], state_dict: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the key to load for each name, that of the moving average or that of the trained weight.

    Raises:
        SmaltiError: a key is missing or unexpected.
    """
    if not any(keys[name] in state_dict for name in family.optional if name in keys):
        keys = {name: key for name, key in keys.items() if name not in family.optional}
    selected: dict[str, str] = {}
    known = set(keys.values())
    for part in sorted({name.partition(".")[0] for name in keys}):
        candidates = {name: key for name, key in keys.items() if name.startswith(f"{part}.")}
        if family.ema_key is not None:
            averages = {name: family.ema_key(key) for name, key in candidates.items()}
            known.update(averages.values())
            if family.mixed_ema:
                averages = {name: key if key in state_dict else candidates[name] for name, key in averages.items()}
            candidates = averages if any(key in state_dict for key in averages.values()) else candidates
        missing = [key for key in candidates.values() if key not in state_dict]
        if missing:
            more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise SmaltiError(f"Key '{missing[0]}' is missing from the checkpoint{more}: nothing was loaded.")
        selected |= candidates
    for key in state_dict:
        if key not in known and not key.startswith(family.ignored_prefixes):
            raise SmaltiError(
                f"Key '{key}' is unexpected: the configuration describes a model that has no such weight."
            )
    return selected
