"""How a bottleneck represents principal components: what its encoder must compute.

Shapes: N positions; K coefficients; U hidden units; C channels of the bottleneck's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Decoding:
    """Two hidden layers through which a decoder computes coefficients from codewords that are not linear in them.

    Attributes:
        first: (V, Z + 1) affine functions of the codewords, before the first SiLU. A linear map of its values gives one
            number per coefficient.
        number: maps codewords (..., Z) to these numbers (..., K).
        second: (W, K + 1) affine functions of the numbers, most important first, before the second SiLU. A linear map of its
            values gives the coefficients.
    """

    first: Tensor
    number: Callable[[Tensor], Tensor]
    second: Tensor


@dataclass(frozen=True)
class StartCode:
    """A mapping from coefficients of variance 1 to the input of a bottleneck.

    The last layers of an encoder compute it: affine functions of the coefficients, SiLU, and a linear map.

    Attributes:
        hidden: (U, K + 1) coefficients and offsets of affine functions, most important first. SiLU is applied to their
            values.
        target: maps coefficients (..., K) to the input of the bottleneck (..., C).
        count: number of coefficients K that the code represents.
        decoding: how a decoder computes the coefficients from codewords; None if they are a linear function of them.
    """

    hidden: Tensor
    target: Callable[[Tensor], Tensor]
    count: int
    decoding: Decoding | None = None


def linear_units(count: int, total: int, channels: Tensor | None = None) -> Tensor:
    """Return hidden units whose SiLU preserves values: +x and -x, because silu(x) - silu(-x) = x.

    Args:
        count: number of values to preserve.
        total: number of channels of x.
        channels: (count,) the channels of the values; None: the first ones.

    Returns:
        (2 count, total + 1).
    """
    rows = torch.zeros(count, total + 1)
    rows[torch.arange(count), torch.arange(count) if channels is None else channels.cpu()] = 1.0
    return torch.stack([rows, -rows], dim=1).flatten(0, 1)


def ramp_units(levels: Sequence[int]) -> Tensor:
    """Return hidden units that map numbers in [-1, 1] with uniform levels to values with any spacing.

    Args:
        levels: number of levels of each of K numbers.

    Returns:
        (W, K + 1): +x and -x of all numbers, then for each number up to six ramps that begin at one of its levels.
    """
    rows = []
    for k, count in enumerate(levels):
        cells = {count // 8, count // 4, count // 2 - 1, count // 2, count - 1 - count // 4, count - 1 - count // 8}
        for cell in sorted(cells):
            if 0 < cell < count - 1:
                row = torch.zeros(len(levels) + 1)
                row[k], row[-1] = 2 * count, -2 * count * (2 * cell / (count - 1) - 1)
                rows.append(row)
    return torch.cat([linear_units(len(levels), len(levels)), *(row.unsqueeze(0) for row in rows)])
