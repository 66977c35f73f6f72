"""Reducing the latents of a tokenizer, and spreading them back so that its decoder shows what was lost.

Each time step of a clip is a map of its own.

Shapes: B batch; t, h, w latent positions; N positions; C channels; M reduced tokens.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from smalti.reducers.base import Reduced, Reducer
from smalti.types import Grids, Latents, pack


def reduce_latents(reducer: Reducer, latents: Latents, saliency: Tensor | None = None) -> list[Reduced]:
    """Reduce latents.

    Args:
        reducer: the reducer.
        latents: latents of a tokenizer.
        saliency: (B, N) saliency of every position, for reducers that need it.

    Returns:
        One result per grid, for (B * t, h * w, C) maps.
    """
    parts = [None] * len(latents.grids) if saliency is None else split_maps(saliency[..., None], latents.grids)
    results = []
    for maps, part, (_, height, width) in zip(split_maps(latents.z, latents.grids), parts, latents.grids, strict=True):
        inputs = {} if part is None else {"saliency": part[..., 0]}
        results.append(reducer.reduce(maps, (height, width), **inputs))
    return results


def expand_latents(reducer: Reducer, reduced: list[Reduced], latents: Latents) -> Latents:
    """Spread reduced latents back over the grids of the latents that were reduced."""
    maps = []
    for part, (t, height, width) in zip(reduced, latents.grids, strict=True):
        expanded = reducer.expand(part, (height, width))
        maps.append(expanded.unflatten(0, (-1, t)).movedim(3, 1).unflatten(3, (height, width)))
    z, _ = pack(tuple(maps))
    return replace(latents, code=replace(latents.code, z=z, ids=None))


def split_maps(values: Tensor, grids: Grids) -> list[Tensor]:
    """Return (B * t, h * w, C) for each grid of values (B, N, C)."""
    parts = torch.split(values, [t * h * w for t, h, w in grids], dim=1)
    return [part.unflatten(1, (t, h * w)).flatten(0, 1) for part, (t, h, w) in zip(parts, grids, strict=True)]
