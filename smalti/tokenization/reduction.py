"""Reduced latents as rows of a token dataset: variable numbers of tokens, without padding.

Shapes: B samples; t time steps of all grids; N positions; M tokens per time step, L tokens of a sample; D channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from smalti.eval.latent_saliency import SALIENCY, latent_saliency
from smalti.reducers import Reduced, Reducer, expand_latents, parse_reducer, reduce_latents
from smalti.tokenization.storage import latents_to_numpy
from smalti.tokenizers.configurable import from_config, get_config
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Code, Grids, Latents, Layout

ARRAYS = ("reduced", "lengths", "assignment", "sizes")
"""Arrays of a row.

`reduced` (L, D): the tokens of one time step after the other. `lengths` (t,) int32: the number of tokens of each time step.
`assignment` (N,) int32: for each position, which token of its time step represents it, -1 if it was dropped. `sizes` (L,)
float32: the total weight of the latents in each token.
"""


@dataclass(frozen=True)
class Reduction:
    """A reducer, and how the importance of latents is measured for it.

    Attributes:
        reducer: the reducer.
        saliency: one of `smalti.eval.latent_saliency.SALIENCY`; None if the reducer does not need it.
    """

    reducer: Reducer
    saliency: str | None

    @classmethod
    def parse(cls, text: str, saliency: str) -> Reduction:
        """Build the reduction of command-line options.

        Raises:
            SmaltiError: the reducer or the saliency is unknown.
        """
        reducer = parse_reducer(text)
        assert saliency in SALIENCY
        return cls(reducer, saliency if "saliency" in reducer.needs else None)

    def describe(self) -> dict[str, Any]:
        """Return what each shard carries."""
        return {"reducer": get_config(self.reducer), "saliency": self.saliency}

    def reduce(self, tokenizer: Tokenizer, latents: Latents, pixels: Tensor) -> dict[str, Tensor]:
        """Reduce the latents of a batch.

        Args:
            tokenizer: the tokenizer.
            latents: its latents of the pixels.
            pixels: (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].

        Returns:
            `reduced`, `lengths`, `assignment` and `sizes` of each grid, with padding, by name and index of the grid.
        """
        saliency = None if self.saliency is None else latent_saliency(self.saliency, tokenizer, latents, pixels)
        tensors: dict[str, Tensor] = {}
        for index, part in enumerate(reduce_latents(self.reducer, latents, saliency)):
            assert part.assignment is not None  # that of every reducer without weights
            sizes = torch.ones(part.tokens.shape[:2]) if part.sizes is None else part.sizes
            values = (part.tokens, part.lengths, part.assignment, sizes)
            tensors |= {f"{name}_{index}": value for name, value in zip(ARRAYS, values, strict=True)}
        return tensors


def split_samples(tensors: dict[str, Tensor], grids: Grids, dtype: str) -> dict[str, list[np.ndarray]]:
    """Return the stored arrays of each sample of a batch.

    Args:
        tensors: the result of `Reduction.reduce`, on the CPU.
        grids: (t, h, w) of each grid.
        dtype: type of `reduced`.
    """
    samples = len(tensors["lengths_0"]) // grids[0][0]
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in ARRAYS}
    for sample in range(samples):
        parts: dict[str, list[Tensor]] = {name: [] for name in ARRAYS}
        for index, (steps, _, _) in enumerate(grids):
            for row in range(sample * steps, (sample + 1) * steps):
                length = tensors[f"lengths_{index}"][row]
                parts["reduced"].append(tensors[f"reduced_{index}"][row, :length].to(getattr(torch, dtype)))
                parts["lengths"].append(length.int()[None])
                parts["assignment"].append(tensors[f"assignment_{index}"][row].int())
                parts["sizes"].append(tensors[f"sizes_{index}"][row, :length].float())
        for name, values in parts.items():
            arrays[name].append(latents_to_numpy(torch.cat(values)))
    return arrays


def expand_row(
    description: dict[str, Any], reduced: Tensor, lengths: Tensor, assignment: Tensor, sizes: Tensor, layout: Layout
) -> Latents:
    """Spread the tokens of a row over its positions, so that a decoder shows what was lost.

    Args:
        description: the result of `Reduction.describe`.
        reduced: (L, D) tokens.
        lengths: (t,) number of tokens of each time step.
        assignment: (N,) token of each position.
        sizes: (L,) weights of the tokens.
        layout: layout of the row.

    Returns:
        Latents of one sample, z (1, N, C) float32.

    Raises:
        SmaltiError: the reducer does not exist in this version.
    """
    reducer = cast(Reducer, from_config(description["reducer"]))
    steps = [t for t, _, _ in layout.grids]
    tokens, weights = (iter(x.float().split(lengths.tolist())) for x in (reduced, sizes))
    positions = assignment.split([t * h * w for t, h, w in layout.grids])
    parts = []
    for counts, where in zip(lengths.split(steps), positions, strict=True):
        padded, padded_weights = (
            torch.nn.utils.rnn.pad_sequence([next(values) for _ in counts], batch_first=True)
            for values in (tokens, weights)
        )
        parts.append(Reduced(padded, counts, where.unflatten(0, (len(counts), -1)), sizes=padded_weights))
    empty = Code(torch.empty(1, layout.positions, 0))
    latents = Latents(code=empty, grids=layout.grids, size=layout.size, frames=layout.frames)
    return expand_latents(reducer, parts, latents)
