"""Reducers by name, for the command line: `m3:scale=36`, or `m3` for a ladder of sizes that fit a grid."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid, Reducer
from smalti.reducers.langdc import AdaptivePool
from smalti.reducers.m3 import M3, available_scales
from smalti.reducers.mustdrop import LocalMerge
from smalti.reducers.proxyv import ProxyPool
from smalti.reducers.prumerge import PruMerge
from smalti.reducers.stf import Fold
from smalti.reducers.top_k import TopK
from smalti.reducers.vqtoken import VQToken


@dataclass(frozen=True)
class NamedReducer:
    """A reducer without weights that the command line can build.

    Attributes:
        build: the class.
        ladder: function from a grid to the arguments of several sizes, from many tokens to few.
        defaults: arguments that differ from those of the class.
    """

    build: type[Reducer]
    ladder: Callable[[Grid], list[dict[str, Any]]]
    defaults: dict[str, Any]


def _halves(grid: Grid) -> list[int]:
    """Return a half, a quarter, an eighth and a sixteenth of the positions, at least 1."""
    return sorted({max(grid[0] * grid[1] // 2**k, 1) for k in range(1, 5)}, reverse=True)


def _windows(grid: Grid) -> list[dict[str, Any]]:
    window = next((w for w in (3, 2, 5, 7) if grid[0] % w == grid[1] % w == 0), None)
    if window is None:
        return []
    return [{"window": window, "threshold": threshold} for threshold in (0.95, 0.9, 0.8, 0.6, 0.3, -1.0)]


def _shapes(grid: Grid) -> list[dict[str, Any]]:
    shapes = [(grid[0] // k, grid[1] // k) for k in (2, 3, 4, 6, 8) if min(grid) >= k]
    return [{"shape": list(shape)} for shape in dict.fromkeys(shapes)]


NAMED_REDUCERS: dict[str, NamedReducer] = {
    "m3": NamedReducer(M3, lambda grid: [{"scale": s} for s in available_scales(grid)[1:]], {}),
    "langdc": NamedReducer(AdaptivePool, _shapes, {}),
    "proxyv": NamedReducer(ProxyPool, lambda grid: [{"factor": k} for k in (2, 3, 4, 6, 8) if min(grid) >= k], {}),
    "fold": NamedReducer(Fold, lambda grid: [{"window": k} for k in (2, 3, 4) if grid[0] % k == grid[1] % k == 0], {}),
    "topk": NamedReducer(TopK, lambda grid: [{"keep": k} for k in _halves(grid)], {}),
    "prumerge": NamedReducer(PruMerge, lambda _: [{"ratio": r} for r in (0.5, 0.25, 0.125, 0.0625)], {}),
    "prumerge_plus": NamedReducer(PruMerge, lambda _: [{"ratio": r} for r in (0.25, 0.125, 0.0625)], {"plus": True}),
    "mustdrop": NamedReducer(LocalMerge, _windows, {}),
    "vqtoken": NamedReducer(
        VQToken, lambda grid: [{"clusters": k} for k in _halves(grid)], {"keep_magnitude": True, "clusters": 32}
    ),
}
"""Reducers by name. Those with weights are trained as part of a tokenizer: see `smalti.reducers.reduced`."""


def parse_reducer(text: str) -> Reducer:
    """Build a reducer from text.

    >>> parse_reducer("topk:keep=0.25,order=saliency").keep
    0.25

    Args:
        text: NAME or NAME:OPTION=VALUE,OPTION=VALUE. Values are JSON; other values are strings.

    Raises:
        SmaltiError: the name or an option is unknown, or a value is invalid.
    """
    name, options = _split(text)
    return _build(name, options)


def parse_ladder(text: str, grid: Grid) -> dict[str, Reducer]:
    """Build one reducer from NAME:OPTIONS, or several sizes that fit a grid from NAME alone.

    Returns:
        Reducers by label, which is their full text.

    Raises:
        SmaltiError: see `parse_reducer`, or no size of this reducer fits the grid.
    """
    name, options = _split(text)
    if options:
        return {text: _build(name, options)}
    ladder = NAMED_REDUCERS[name].ladder(grid)
    if not ladder:
        raise SmaltiError(
            f"No size of the reducer {name} fits a grid of {grid[0]} x {grid[1]}: choose another reducer, or images of "
            "another size."
        )
    return {_label(name, arguments): _build(name, arguments) for arguments in ladder}


def _label(name: str, arguments: dict[str, Any]) -> str:
    values = (f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in arguments.items())
    return f"{name}:{','.join(values)}"


def _split(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of a text."""
    name, _, rest = text.partition(":")
    if name not in NAMED_REDUCERS:
        raise SmaltiError(f"There is no reducer '{name}': choose from {', '.join(NAMED_REDUCERS)}.")
    options: dict[str, Any] = {}
    for part in re.split(r",(?![^\[]*\])", rest) if rest else []:
        key, equals, value = part.partition("=")
        if not equals:
            raise SmaltiError(f"'{part}' is not an option of a reducer: write NAME:OPTION=VALUE, such as m3:scale=36.")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return name, options


def _build(name: str, options: dict[str, Any]) -> Reducer:
    entry = NAMED_REDUCERS[name]
    known = inspect.signature(entry.build).parameters
    for key in options:
        if key not in known:
            raise SmaltiError(f"The reducer {name} has no option '{key}': its options are {', '.join(known)}.")
    arguments = entry.defaults | options
    missing = [key for key, p in known.items() if p.default is p.empty and key not in arguments]
    if missing:
        raise SmaltiError(f"The reducer {name} needs the option '{missing[0]}': write {name}:{missing[0]}=VALUE.")
    try:
        return entry.build(**arguments)
    except (TypeError, ValueError, IndexError) as error:
        raise SmaltiError(f"The options of the reducer {name} are invalid ({error}): check their values.") from error
